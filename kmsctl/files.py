"""Reads what is to be encrypted or decrypted, and writes the result where nobody else can read it."""

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


def read(source: str, what: str) -> bytes:
    """All of a file, or of stdin for `-`. Raises UsageError if it cannot be read or is too long."""
    if source == "-":
        if sys.stdin.isatty():
            diagnostics.note(f"reading {what} from the terminal; Ctrl-D ends it")
        return _bounded(sys.stdin.buffer, "stdin")
    try:
        with Path(source).open("rb") as file:
            return _bounded(file, source)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}", "name a file, or - for stdin") from error


def _bounded(file: BinaryIO, name: str) -> bytes:
    data = file.read(INPUT_MAX + 1)
    if len(data) > INPUT_MAX:
        raise UsageError(f"{name} holds more than {INPUT_MAX} bytes", "a KMS encrypts keys; encrypt the data with one")
    return data


def write(target: str, data: bytes) -> None:
    """Makes or replaces a file of mode 0600, whole or not at all. Raises UsageError."""
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
