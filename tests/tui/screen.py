"""What a person would read on the screen of a running app, and a bounded wait for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import monotonic
from typing import Any

from textual import events
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget

from tests.daemons import longer

_FRAMES = re.compile(r"[│╭╮╰╯─\s]+")


def shown(app: App[Any]) -> str:
    """The lines of the screen."""
    strips = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def flat(screen: str) -> str:
    """In one line, without frames: what was wrapped is whole again."""
    return _FRAMES.sub(" ", screen)


async def until(pilot: Pilot[Any], *wanted: str, without: str = "", timeout: float = 40.0) -> str:
    """The screen once it holds all these texts, wrapped or not, and not the other; fails with the screen after
    `timeout` seconds."""
    began = monotonic()
    while True:
        await pilot.pause()
        screen = shown(pilot.app)
        # A notification is wrapped beside what lies under it.
        whole = " ".join([flat(screen), *(each.message for each in pilot.app._notifications)])
        found = all(text in screen or text in whole for text in wanted) and not (without and without in screen)
        if found and _laid_out(pilot.app):
            return screen
        waited = monotonic() - began
        assert waited < timeout, f"no {wanted} without {without!r} on\n{screen}"
        await asyncio.sleep(longer(0.05, waited))


def _laid_out(app: App[Any]) -> bool:
    """Whether all lies where it will stay: a click goes to where its target is now. A pause ends when the process uses
    no CPU, as one does on a busy machine in the middle of its work, too."""
    screen = app.screen
    if app._batch_count or screen._layout_required or screen.message_queue_size:
        return False
    return not any(each._layout_required for each in screen.walk_children(Widget))


async def holds(what: Callable[[], object], timeout: float = 40.0) -> None:
    """Until it is true; fails after `timeout` seconds. For what no screen says."""
    began = monotonic()
    while not what():
        waited = monotonic() - began
        assert waited < timeout, "it never came true"
        await asyncio.sleep(longer(0.02, waited))


async def paste(pilot: Pilot[Any], text: str) -> None:
    """Into what has the focus, as a terminal does it."""
    pilot.app.post_message(events.Paste(text))
    await pilot.pause()


def line_with(screen: str, text: str) -> str:
    """The one line that holds the text."""
    (line,) = (line for line in screen.splitlines() if text in line)
    return line
