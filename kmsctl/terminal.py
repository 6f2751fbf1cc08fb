"""Tells what the stream at hand can show. Knows nothing of what is shown."""

from __future__ import annotations

import os
from typing import TextIO


def colourful(stream: TextIO | None) -> bool:
    """Return whether to colour: on a capable terminal, unless NO_COLOR says no (https://no-color.org)."""
    return movable(stream) and not os.environ.get("NO_COLOR")


def movable(stream: TextIO | None) -> bool:
    """Return whether a line can be taken back and written anew."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def columns(stream: TextIO | None) -> int:
    """Return the columns of the terminal that a stream is."""
    return size(stream).columns


def size(stream: TextIO | None) -> os.terminal_size:
    """Return columns and lines of the terminal; 80x24 where nobody knows."""
    try:
        if stream is not None:
            found = os.get_terminal_size(stream.fileno())
            return os.terminal_size((found.columns or 80, found.lines or 24))
    except OSError:
        pass
    return os.terminal_size((80, 24))
