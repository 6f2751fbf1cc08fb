"""Unix sockets made with their final mode, owner and group, never stolen from a live server, and made anew when gone.

File permissions are the local authorisation (`relay` proves only who it is that calls), so a socket must not
exist for a moment with other ones: it is bound in a private directory beside its place, and moved there when it is
right. Knows no server: whoever listens is given a path to bind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd import plainfile, safepath
from kmsd.errors import Internal, KmsdError, Misconfigured, Unavailable
from kmsd.paths import SOCKET_PATH_MAX

_WATCH_SECONDS: Final = 1.0
"""Seconds between two looks at whether the socket is in its place."""
_WHAT: Final = "the socket"


class Occupied(Misconfigured):
    """Raised if another server is alive in this place."""


class SocketPlace:
    """A path that this process, and no other kmsd, will serve on.

    mode: permission bits of the socket. group: name of the group that is to own the socket; empty: the group that the
    kernel gives it. Raises Misconfigured if there is no such group.
    """

    def __init__(self, path: Path, mode: int, group: str = "") -> None:
        self.path = path
        self.mode = mode
        self._gid = _gid(group)
        self._lock = -1
        self._made = -1
        """Descriptor of the socket's inode: as long as it is held, no other inode gets its number."""

    def claim(self) -> None:
        """Check the way to the place, make its directory if it is missing, and lock the place.

        May be called again, when the socket has gone. Raises Misconfigured; Occupied if another server has the place.
        """
        parent = self.path.parent
        safepath.prepare(parent, _WHAT, mode=0o700 if self._gid == -1 else 0o710, gid=self._gid, shared=True)
        self._lock_place(parent / f".{self.path.name}.lock")
        self._check_occupant()

    def _lock_place(self, path: Path) -> None:
        """Hold the lock that lies in the directory now: the directory may have been made anew, and the lock with it."""
        try:
            lock = plainfile.open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise Misconfigured(
                f"{path} cannot be made: {error.strerror}", "run kmsd as the owner of the directory, or choose another"
            ) from error
        try:
            if safepath.stranger(os.fstat(lock)):
                raise Misconfigured(f"the lock {path} was made by another user", "remove it, or choose another path")
            if self._lock != -1 and os.path.samestat(os.fstat(lock), os.fstat(self._lock)):
                return
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock, self._lock = self._lock, lock
        except BlockingIOError:
            raise Occupied(
                f"another kmsd serves on {self.path}", "stop it first, or give this one another socket"
            ) from None
        finally:
            if lock != -1:
                os.close(lock)

    def _check_occupant(self) -> None:
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise Misconfigured(
                f"{self.path} exists and is no socket but a directory",
                "kubelet and docker make one for a mount of a socket that is not there yet: remove it, and have them "
                "mount the directory around it",
            )
        if not stat.S_ISSOCK(found.st_mode):
            raise Misconfigured(f"{self.path} exists and is no socket", "move it away, or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                if safepath.stranger(found):
                    raise Misconfigured(
                        f"the socket {self.path} was made by user {found.st_uid}", "remove it, or choose another path"
                    ) from None
                return  # stale: its server is gone; bind() replaces it
            except (TimeoutError, BlockingIOError):
                pass  # alive, and too busy to take a connection
            except OSError as error:
                raise Misconfigured(
                    f"{self.path} cannot be examined: {error.strerror or error}",
                    "remove it if no server uses it",
                ) from error
        raise Occupied(f"another server answers on {self.path}", "stop it first, or give this one another socket")

    def bind(self, listen: Callable[[str], None]) -> None:
        """Have `listen` bind a path, under a umask that leaves exactly `mode`; then move the socket to its place.

        Raises Misconfigured.
        """
        try:
            private = Path(tempfile.mkdtemp(prefix=".k", dir=self.path.parent))
        except OSError as error:
            raise Misconfigured(
                f"{self.path.parent} cannot be written: {error.strerror}", "run kmsd as its owner, or choose another"
            ) from error
        try:
            made = private / "s"
            before = os.umask(0o777 & ~self.mode)
            try:
                with _short(made) as short:
                    listen(short)
            finally:
                os.umask(before)
            if self._gid != -1:
                os.chown(made, -1, self._gid)
            held = os.open(made, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                made.replace(self.path)
            except OSError:
                os.close(held)
                raise
            self._forget()
            self._made = held
        except PermissionError as error:
            raise Misconfigured(
                f"{self.path} cannot be given its owner and mode: {error.strerror}",
                "let kmsd's user be a member of the socket's group (systemd: SupplementaryGroups=)",
            ) from error
        except (OSError, RuntimeError) as error:
            raise Misconfigured(f"nothing can be served on {self.path}: {error}", "choose another socket") from error
        finally:
            shutil.rmtree(private, ignore_errors=True)

    def missing(self) -> str:
        """Return, in words, what has become of the socket that was bound last; empty while it is in its place."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return "it was deleted"
        except OSError as error:
            return f"it cannot be examined: {error.strerror}"
        return "" if os.path.samestat(found, os.fstat(self._made)) else "something else took its place"

    def release(self) -> None:
        """Remove the socket if it is still the one that was bound here, and unlock the place."""
        if self._made != -1 and not self.missing():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        self._forget()
        if self._lock != -1:
            os.close(self._lock)
            self._lock = -1

    def _forget(self) -> None:
        if self._made != -1:
            os.close(self._made)
            self._made = -1


class SocketWatch:
    """A watch that looks every second whether a socket is still in its place, and has it made again if not.

    place: must have been bound. renew: binds the place and serves on it once more, while whoever is connected already
    goes on. told: called when the socket has been made again, with what had become of it.
    problem: why the socket is missing, and cannot be made; None while it is there.
    """

    def __init__(self, place: SocketPlace, renew: Callable[[], Awaitable[None]], told: Callable[[str], None]) -> None:
        self.place = place
        self.problem: KmsdError | None = None
        self._renew = renew
        self._told = told
        self._since: float | None = None

    def lost(self) -> float:
        """Return for how many seconds making the socket again has failed.

        It is 0 while the socket is there, or another server has its place.
        """
        return 0.0 if self._since is None else monotonic() - self._since

    async def run(self) -> None:
        """Watch the socket for ever."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if what := self.place.missing():
                await self._make_again(what)
            else:
                self.problem = self._since = None

    async def _make_again(self, what: str) -> None:
        try:
            # Claiming may wait for whoever has the place now.
            await asyncio.to_thread(self.place.claim)
            await self._renew()
        except Exception as error:  # noqa: BLE001  whatever it is, it is tried again
            cause = error if isinstance(error, KmsdError) else Internal(f"unexpected {type(error).__name__}")
            self.problem = Unavailable(
                f"nobody can connect to {self.place.path} ({what}), and it cannot be made again: {cause.message}",
                cause.hint,
            )
            # A restart would find the other server, too, and end what this one has left.
            self._since = None if isinstance(error, Occupied) else self._since or monotonic()
        else:
            self.problem = self._since = None
            self._told(what)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield the path itself if it fits into sun_path, else one to the same place by way of proc(5)."""
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _gid(group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Misconfigured(f"there is no group {group!r}", f"make it: groupadd --system {group}") from None
