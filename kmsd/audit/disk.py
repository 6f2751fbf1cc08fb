"""Files that nobody else may write to, and what is at their ends: the plain functions under the audit's file.

Knows nothing of records. Everything may raise OSError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kmsd import plainfile, safepath
from kmsd.errors import Misconfigured

BLOCK: Final = 65536
"""Bytes that are read at once."""
_MOST_TORN: Final = 1 << 30
"""Bytes without a line end: more than a crash leaves, and than a search for one may take time."""


def prepare(directory: Path) -> None:
    """Make the directory, mode 0700, if it is not there. Raises Misconfigured if others could replace it, or
    write to it."""
    safepath.prepare(directory, "the audit")


def open_file(path: Path) -> int:
    """Open a file to append to it and to read it; a new one gets mode 0600. Raises Misconfigured if others may write
    to it."""
    file = plainfile.open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    info = os.fstat(file)
    # Whoever may write there can make any record.
    if safepath.stranger(info):
        why = f"{path} belongs to user {info.st_uid}, not to root or kmsd's own user"
    elif info.st_mode & 0o022:
        why = f"others may write to {path} (mode {stat.S_IMODE(info.st_mode):04o})"
    else:
        return file
    os.close(file)
    raise Misconfigured(why, "chmod 600 the file, or name another one (audit.file)")


def write(file: int, data: bytes) -> None:
    """Write all of the data; a part may stand in the file when this raises."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def copy(file: int, begin: int, end: int, path: Path) -> None:
    """Copy a part of a file into a new one, mode 0600, which is on the disk when this returns."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while begin < end:
            block = os.pread(file, min(BLOCK, end - begin), begin)
            write(target, block)
            begin += len(block)
        os.fsync(target)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(target)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Put names that were made or moved in a directory on the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def line_end(file: int, size: int, path: Path) -> int:
    """Return the offset behind the last newline."""
    end = size
    while end:
        if size - end > _MOST_TORN:
            raise OSError(errno.EFBIG, f"its last {_MOST_TORN >> 20} MiB hold no line end", str(path))
        begin = max(0, end - BLOCK)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def lines_back(file: int, end: int, most: int) -> Iterator[bytes]:
    """Yield the lines before `end`, which is behind a newline, the last first. Of a line longer than `most` bytes its
    end is given, which is still longer."""
    rest, end = b"", max(0, end - 1)
    while end:
        begin = max(0, end - BLOCK)
        first, *lines = (os.pread(file, end - begin, begin) + rest).split(b"\n")
        yield from reversed(lines)
        rest = first[-(most + 1) :]
        end = begin
    yield rest
