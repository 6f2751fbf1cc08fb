"""What is written to the terminal arrives whole."""

from __future__ import annotations

import io
import sys


def whole() -> None:
    """Buffer the stream that Textual writes to, sys.__stderr__, where Python was told not to (PYTHONUNBUFFERED, as in
    many container images): unbuffered, what is left of a write that a signal has cut short is lost, and with it half a
    screen when the terminal is slow and its window changes its size."""
    stream = sys.__stderr__
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.FileIO):
        raw = io.FileIO(stream.fileno(), "w", closefd=False)
        sys.__stderr__ = io.TextIOWrapper(  # type: ignore[misc]  # not to be changed, but for a reason
            io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True
        )
