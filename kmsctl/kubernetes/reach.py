"""Connect to a Unix socket as another user would: the kernel decides, and not a reading of modes."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from typing import Final

SECONDS: Final = 2.0
"""Longest time for a connection."""


_CAPABILITY_VERSION: Final = 0x20080522
"""The version of capset(2) that has two words for each set."""


def connect_as(path: str, user: int, group: int, groups: Sequence[int], *, powerless: bool = False) -> OSError | None:
    """Connect once, as this user with these groups. Return None if that works, else why not. powerless: whether root
    has no capabilities either, as in a pod that drops them.

    Raises PermissionError if this process may not become that user. A child does it, which ends at once: what a process
    may is changed for all of its threads.
    """
    if os.geteuid() == user and not (powerless and user == 0):
        return _connect(path)
    if os.geteuid() != 0:
        raise PermissionError(f"only root can act as the user {user}")
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(list(groups))
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            if powerless:
                _drop_capabilities()
            error = _connect(path)
            code = 0 if error is None else error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == 0 else OSError(code, os.strerror(code))


def _drop_capabilities() -> None:
    """Give up all capabilities of this process. Raises OSError."""
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def _connect(path: str) -> OSError | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(path)
    except OSError as error:
        return error
    return None
