"""What a person would read on the screen of a running app, and a bounded wait for it."""

from __future__ import annotations

import asyncio
import html
import re
from time import monotonic

from textual.app import App
from textual.pilot import Pilot

_TEXT = re.compile(r'<text[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', re.DOTALL)
_CHARACTER = 12.2
"""Width of a column in the exported picture."""


def shown(app: App[None]) -> str:
    """The lines of the screen, after one with the title that the exported picture gives its window."""
    rows: dict[float, dict[int, str]] = {}
    for x, y, text in _TEXT.findall(app.export_screenshot()):
        rows.setdefault(float(y), {})[round(float(x) / _CHARACTER)] = html.unescape(text).replace("\xa0", " ")
    lines = []
    for _, parts in sorted(rows.items()):
        line = ""
        for column, text in sorted(parts.items()):
            line = line.ljust(column) + text
        lines.append(line.rstrip())
    return "\n".join(lines)


async def until(pilot: Pilot[None], *wanted: str, without: str = "", timeout: float = 20.0) -> str:
    """The screen once it holds all these texts and not the other; fails with the screen after `timeout` seconds."""
    deadline = monotonic() + timeout
    while True:
        await pilot.pause()
        screen = shown(pilot.app)
        if all(text in screen for text in wanted) and not (without and without in screen):
            return screen
        assert monotonic() < deadline, f"no {wanted} without {without!r} on\n{screen}"
        await asyncio.sleep(0.05)


def line_with(screen: str, text: str) -> str:
    """The one line that holds the text."""
    (line,) = (line for line in screen.splitlines() if text in line)
    return line
