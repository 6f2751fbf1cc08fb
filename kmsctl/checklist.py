"""Checks, one a line, with a sign and a colour for what each came to. Knows no command."""

from __future__ import annotations

from typing import Final

from kmsctl import output
from kmsctl.output import Colour
from kmsctl.text import width
from kmsd.client import escape

_LOOKS: Final = {
    "ok": ("\N{HEAVY CHECK MARK}", "+", Colour.GREEN),
    "warning": ("!", "!", Colour.YELLOW),
    "failed": ("\N{HEAVY BALLOT X}", "x", Colour.RED),
    "not applicable": ("\N{MIDDLE DOT}", "-", Colour.DIM),
    "unknown": ("?", "?", Colour.YELLOW),
    "not checked": ("?", "?", Colour.YELLOW),
}


def line(outcome: str, title: str, seen: str, room: int) -> str:
    """Return a check as a line. room: columns of the longest title, escaped."""
    beautiful, plain, colour = _LOOKS[outcome]
    mark = output.paint(output.glyph(beautiful, plain), colour)
    title = escape(title)
    return f"{mark} {title}{' ' * (room - width(title))}   {escape(seen) or '-'}".rstrip()
