"""What the stream at hand can show. Knows nothing of what is shown."""

from __future__ import annotations

import os
from typing import TextIO


def colourful(stream: TextIO) -> bool:
    """Whether to colour: on a capable terminal, unless NO_COLOR says no (https://no-color.org)."""
    return movable(stream) and not os.environ.get("NO_COLOR")


def movable(stream: TextIO) -> bool:
    """Whether a line can be taken back and written anew."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
