"""The only reader of stdin and of files: what is to be worked on, and answers to questions. Writes results where
nobody else can read them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from kmsctl import diagnostics
from kmsctl.diagnostics import UsageError

INPUT_MAX = 1 << 20
"""Bytes."""


def stdin_is_terminal() -> bool:
    """Return whether stdin is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def keyboard() -> int | None:
    """Return the descriptor that keys are read from; None if stdin is no terminal."""
    return sys.stdin.fileno() if stdin_is_terminal() else None


def read_line() -> str:
    """Return one line that somebody types; empty at the end of the input."""
    return sys.stdin.readline()


def read(
    source: str, what: str, *, most: int = INPUT_MAX, too_long: str = "a KMS encrypts keys; encrypt the data with one"
) -> bytes:
    """Return all of a file, or of stdin for `-`. Raises UsageError if it cannot be read or has more than `most` bytes;
    too_long: the hint then."""
    if source == "-":
        if sys.stdin is None:
            raise UsageError(f"cannot read {what}: stdin is closed", "name a file, or open stdin")
        if stdin_is_terminal():
            diagnostics.note(f"reading {what} from the terminal; Ctrl-D ends it")
        return _bounded(sys.stdin.buffer, "stdin", most, too_long)
    try:
        with Path(source).open("rb") as file:
            return _bounded(file, source, most, too_long)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}", "name a file, or - for stdin") from error


def _bounded(file: BinaryIO, name: str, most: int, too_long: str) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise UsageError(f"{name} holds more than {most} bytes", too_long)
    return data


def write(target: str, data: bytes) -> None:
    """Make or replace a file of mode 0600, whole or not at all. Raises UsageError."""
    path = Path(target)
    if path.exists() and not path.is_file():
        raise UsageError(f"{target} is not a regular file", "leave out --out to write to stdout")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise UsageError(f"cannot write {target}: {error.strerror}", "name a file in a directory of yours") from error
