"""Claim an audit for one process: no two may write one chain."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from kmsd import plainfile
from kmsd.errors import Misconfigured


class InUse(Misconfigured):
    """Raised when another kmsd writes this audit."""


def claim(audit: Path) -> int:
    """Take the lock beside the audit's present file; return its descriptor, which holds it until it is closed.

    Raises InUse, Misconfigured for a lock file that others may write to, OSError.
    """
    lock = plainfile.open_regular(audit.with_name(f"{audit.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        pid = re.fullmatch(rb"[0-9]{1,10}\n", os.pread(lock, 16, 0))
        os.close(lock)
        raise InUse(
            f"another kmsd{f' (pid {int(pid[0])})' if pid else ''} writes the audit {audit}",
            "give each kmsd a state.dir or an audit.file of its own, or stop the other",
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock
