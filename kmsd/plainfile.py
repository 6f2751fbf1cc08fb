"""Open files that may turn out to be something else: a pipe nobody writes to, a device, a directory, a huge file.

None of them can make kmsd wait for longer than a bound, or fill its memory. Everything raises OSError and nothing else.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from time import monotonic
from typing import Final

PATIENCE: Final = 5.0
"""Seconds for whoever writes to a pipe that kmsd is given."""
_BLOCK: Final = 65536


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file, never following a symbolic link at its end; one that is made gets mode 0600.

    flags: as for open(2), for example os.O_RDONLY. Raises OSError with a strerror that says what it is instead.
    """
    # Opening a FIFO would wait for its other end.
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_input(path: Path, most: int, *, line: bool = False) -> tuple[bytes, os.stat_result]:
    """Read what somebody made for kmsd to read: a file, or a pipe or character device such as /dev/fd/3, /dev/null.

    Gives the first `most` bytes of it, and what fstat(2) says of it. line: only its first line, with the line end;
    of a pipe nothing behind that is taken. A pipe must have given all within PATIENCE. Raises OSError.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode):
            data = _read(file, most)
            return (data[: data.find(b"\n") + 1] or data) if line else data, found
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe", str(path))
        return _read_pipe(file, path, most, line), found
    finally:
        os.close(file)


def _read(file: int, most: int) -> bytes:
    data = bytearray()
    while len(data) < most and (block := os.read(file, min(_BLOCK, most - len(data)))):
        data += block
    return bytes(data)


def _read_pipe(file: int, path: Path, most: int, line: bool) -> bytes:
    until = monotonic() + PATIENCE
    data = bytearray()
    poll = select.poll()
    poll.register(file, select.POLLIN)
    while len(data) < most and not (line and data.endswith(b"\n")):
        # Without a writer yet, a FIFO reads as if it had ended: only poll(2) tells the two apart.
        if not poll.poll(max(0.0, until - monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"nobody wrote all of it to the pipe within {PATIENCE:g} s", str(path))
        try:
            block = os.read(file, 1 if line else min(_BLOCK, most - len(data)))
        except BlockingIOError:
            continue
        if not block:
            break
        data += block
    return bytes(data)
