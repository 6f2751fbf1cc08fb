"""A screen as an SVG picture: small, and in need of no font from elsewhere."""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import Any

from textual.app import App
from textual.pilot import Pilot

_NAME = re.compile(r"terminal-\d+")
_LEFT_OUT = (
    re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL),
    re.compile(r'<clipPath id="[^"]*-line-\d+">\s*<rect [^>]*/>\s*</clipPath>\n?'),
    re.compile(r' clip-path="url\([^"]*-line-\d+\)"'),
    re.compile(r"\s*<!--.*?-->"),
)
_FAMILY = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def picture(app: App[Any]) -> str:
    drawn = app.export_screenshot(title="kmstui")
    for pattern in _LEFT_OUT:
        drawn = pattern.sub("", drawn)
    drawn = _NAME.sub("k", drawn).replace("font-family: Fira Code, monospace", f"font-family: {_FAMILY}")
    lines = (line.strip() for line in drawn.replace("&#160;", "\xa0").splitlines())
    return "\n".join(line for line in lines if line) + "\n"


async def settled(pilot: Pilot[Any]) -> None:
    """Until what was shown has been laid out and drawn, which on a busy machine takes longer than any number of
    pauses."""
    deadline = monotonic() + 10
    for _ in range(3):
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()
    while _pending(pilot.app):
        assert monotonic() < deadline, "it is not drawn"
        await asyncio.sleep(0.01)
        await pilot.pause()


def _pending(app: App[Any]) -> bool:
    """Whether the screen on top has not been laid out and painted as it is now."""
    screen = app.screen
    return bool(app._batch_count or screen._layout_required or screen._repaint_required or screen._dirty_widgets)
