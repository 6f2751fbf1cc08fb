"""Unix sockets made with their final mode, owner and group, never stolen from a live server.

File permissions are the local authorisation (`kmsd.rpc.relay` proves only who it is that calls), so a socket must not
exist for a moment with other ones: it is bound in a private directory beside its place, and moved there when it is
right.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kmsd.errors import Misconfigured

_SUN_PATH_MAX: Final = 107
"""Bytes: sun_path is 108 with its NUL (unix(7))."""


class SocketPlace:
    """A path that this process, and no other kmsd, will serve on.

    mode: permission bits of the socket. group: name of the group that is to own it; empty: as it comes.
    """

    def __init__(self, path: Path, mode: int, group: str = "") -> None:
        self.path = path
        self.mode = mode
        self._gid = _gid(group)
        self._lock = -1
        self._inode = 0

    def claim(self) -> None:
        """Check the directory, make it if it is missing, and lock the place. Raises Misconfigured."""
        parent = self.path.parent
        if not parent.exists():
            _make_directory(parent, self._gid)
        _check_directory(parent)
        lock = parent / f".{self.path.name}.lock"
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise Misconfigured(
                f"another kmsd serves on {self.path}", "stop it first, or give this one another socket"
            ) from None
        except OSError as error:
            self._close()
            raise Misconfigured(
                f"{lock} cannot be made: {error.strerror}",
                "run kmsd as the owner of the directory, or choose another",
            ) from error
        self._check_occupant()

    def _check_occupant(self) -> None:
        try:
            kind = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(kind):
            self._close()
            raise Misconfigured(f"{self.path} exists and is no socket", "move it away, or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                return  # stale: its server is gone; bind() replaces it
            except OSError as error:
                self._close()
                raise Misconfigured(
                    f"{self.path} cannot be examined: {error.strerror or error}",
                    "remove it if no server uses it",
                ) from error
        self._close()
        raise Misconfigured(f"another server answers on {self.path}", "stop it first, or give this one another socket")

    def bind(self, listen: Callable[[str], None]) -> None:
        """Have `listen` bind a path, under a umask that leaves exactly `mode`; then move it to its place."""
        try:
            private = Path(tempfile.mkdtemp(prefix=".k", dir=self.path.parent))
        except OSError as error:
            raise Misconfigured(
                f"{self.path.parent} cannot be written: {error.strerror}", "run kmsd as its owner, or choose another"
            ) from error
        try:
            made = private / "s"
            if len(os.fsencode(made)) > _SUN_PATH_MAX:
                raise Misconfigured(
                    f"the directory {self.path.parent} has too long a path for a Unix socket",
                    "choose a shorter one",
                )
            before = os.umask(0o777 & ~self.mode)
            try:
                listen(str(made))
            finally:
                os.umask(before)
            if self._gid != -1:
                os.chown(made, -1, self._gid)
            made.replace(self.path)
            self._inode = self.path.stat().st_ino
        except PermissionError as error:
            raise Misconfigured(
                f"{self.path} cannot be given its owner and mode: {error.strerror}",
                "let kmsd's user be a member of the socket's group (systemd: SupplementaryGroups=)",
            ) from error
        except (OSError, RuntimeError) as error:
            raise Misconfigured(f"nothing can be served on {self.path}: {error}", "choose another socket") from error
        finally:
            shutil.rmtree(private, ignore_errors=True)

    def release(self) -> None:
        """Remove the socket if it is still ours, and unlock the place."""
        with contextlib.suppress(FileNotFoundError):
            if self._inode and self.path.stat().st_ino == self._inode:
                self.path.unlink()
        self._inode = 0
        self._close()

    def _close(self) -> None:
        if self._lock != -1:
            os.close(self._lock)
            self._lock = -1


def _gid(group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Misconfigured(f"there is no group {group!r}", f"make it: groupadd --system {group}") from None


def _make_directory(path: Path, gid: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only who may call has to pass through.
        before = os.umask(0o777 & ~(0o700 if gid == -1 else 0o710))
        try:
            path.mkdir()
        finally:
            os.umask(before)
        if gid != -1:
            os.chown(path, -1, gid)
    except OSError as error:
        raise Misconfigured(
            f"the directory {path} cannot be made: {error.strerror}",
            "make it for kmsd, or choose another socket",
        ) from error


def _check_directory(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise Misconfigured(f"{path} cannot be examined: {error.strerror}", "choose another socket") from error
    if not stat.S_ISDIR(found.st_mode):
        raise Misconfigured(f"{path} is no directory", "choose another socket")
    if found.st_uid not in (0, os.geteuid()):
        raise Misconfigured(
            f"the directory {path} belongs to user {found.st_uid}, who could replace the socket",
            "use a directory that belongs to root or to kmsd's own user",
        )
    writable = stat.S_IMODE(found.st_mode) & (stat.S_IWOTH | stat.S_IWGRP)
    if writable and not found.st_mode & stat.S_ISVTX:
        raise Misconfigured(
            f"others may write to the directory {path}, and so replace the socket", f"chmod go-w {path}"
        )
