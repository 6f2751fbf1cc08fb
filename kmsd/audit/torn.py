"""Keep pieces of lines that a crash has left at the end of an audit's file, each in a file beside it, as evidence."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kmsd.audit import disk

_EVIDENCE: Final = 1024 * 1024
"""Bytes of a torn end that are kept aside; a crash of the machine may leave more zeros than anybody wants."""

MENDED: Final = "audit mended"

Note = tuple[str, str]
"""Action and detail of an event that belongs into the chain."""


def name(audit: Path, seq: int) -> Path:
    """Return the name of a piece that stood in the place of the record `seq`. audit: the present file."""
    return audit.with_name(f"{audit.stem}-torn-{seq}")


def found(audit: Path) -> list[tuple[int, Path]]:
    """Return the pieces beside this audit, each with the seq of the record in whose place it stood."""
    pattern = re.compile(re.escape(audit.stem) + r"-torn-([0-9]{1,19})(-[0-9]+)?")
    return [
        (int(match[1]), file) for file in audit.parent.iterdir() if (match := pattern.fullmatch(file.name)) is not None
    ]


def move_aside(audit: Path, seq: int, file: int, end: int, size: int) -> Note:
    """Take the piece from `end` to `size` out of the open file; return what the next record has to say of it."""
    path = first = name(audit, seq)
    number = 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    disk.copy(file, end, min(size, end + _EVIDENCE), path)
    os.ftruncate(file, end)
    os.fsync(file)
    return note(path, size - end)


def note(path: Path, size: int) -> Note:
    """Return what a record has to say of a piece of so many bytes."""
    return (
        MENDED,
        f"kmsd or the machine was stopped while writing: {size} bytes of an unfinished line lie in {path.name}",
    )
