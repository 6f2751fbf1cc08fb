"""Find out why a Unix socket cannot be reached: gRPC says UNAVAILABLE to all of it, the kernel knows better.

Knows nothing of gRPC.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
from pathlib import Path

from kmsd.client.errors import ClientError, Denied, InvalidRequest, Unreachable

START = "start it with `systemctl start kmsd`, or `kmsd serve`, or `kmsd dev` to try it out"
LOG = "look at the log of kmsd (`journalctl -u kmsd`)"


def explain(path: Path) -> ClientError | None:
    """Dial once more with a plain socket, and return what is wrong; None if somebody listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            sock.connect(os.fspath(path))
    except (FileNotFoundError, NotADirectoryError):
        return _unreachable(f"kmsd does not run: there is no socket {path}", START)
    except ConnectionRefusedError:
        return _refused(path)
    except PermissionError:
        return _denied(path)
    except (BlockingIOError, TimeoutError):
        return _unreachable(f"kmsd does not accept connections on {path}", LOG)
    except OSError as error:
        return _unreachable(f"cannot connect to {path}: {error.strerror}", START)
    return None


def broken(place: object) -> ClientError:
    """Return what to say when somebody listens, and still no answer came."""
    return _unreachable(
        f"the connection to {place} broke before an answer came", f"is it kmsd that listens there? {LOG}"
    )


def _unreachable(message: str, hint: str) -> Unreachable:
    return Unreachable(message, hint, "UNAVAILABLE", retryable=True)


def _refused(path: Path) -> ClientError:
    try:
        is_socket = stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        is_socket = True
    if is_socket:
        return _unreachable(f"kmsd does not run: nothing listens on {path}", START)
    return InvalidRequest(f"{path} is not a socket", "name the socket of kmsd", "INVALID_ARGUMENT")


def _denied(path: Path) -> Denied:
    barrier = _barrier(path)
    try:
        info = barrier.stat()
    except OSError:
        return Denied(f"no permission on {barrier}", "run this as root", "PERMISSION_DENIED")
    owner, group = _user(info.st_uid), _group(info.st_gid)
    mode = stat.S_IMODE(info.st_mode)
    what = "socket" if barrier == path else "directory"
    message = (
        f"no permission on the {what} {barrier}: it belongs to {owner}:{group}, mode {mode:04o}, "
        f"and you are {_user(os.geteuid())}"
    )
    wanted = stat.S_IWGRP if barrier == path else stat.S_IXGRP
    if mode & wanted and info.st_gid != 0:
        hint = f"join the group {group} (`usermod -aG {group} {_user(os.geteuid())}`, then log in again)"
    else:
        hint = f"run this as {owner} (sudo), or have kmsd give the socket to a group of yours"
    return Denied(message, hint, "PERMISSION_DENIED")


def _barrier(path: Path) -> Path:
    """Return the first directory on the way that may not be entered, else the socket itself."""
    for directory in reversed(path.parents):
        if not os.access(directory, os.X_OK, effective_ids=True):
            return directory
    return path


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
