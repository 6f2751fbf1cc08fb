"""The screens that nobody has looked at yet, made while nothing happens: making one takes longer than a key may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from textual import events
from textual.app import App

REST = 0.15
"""Seconds without a key before the next screen is made."""


async def make(app: App[Any], names: Iterable[str], quiet: Callable[[], float], making: asyncio.Lock) -> None:
    """names: of modes of the app. quiet: seconds since the last key. making: held meanwhile; who holds it finds each
    screen made, or not begun."""
    for name in names:
        left = REST
        while left > 0:
            await asyncio.sleep(left)
            left = REST - quiet()
        async with making:
            await _make(app, name)


async def _make(app: App[Any], name: str) -> None:
    if name in app._screen_stacks:
        return
    # Textual makes a screen when it is first switched to; this is that part of it.
    await app._init_mode(name)
    for screen in app._screen_stacks[name]:
        screen.post_message(events.ScreenSuspend())
        # Made with the present colours, it need not be styled again when it is first shown.
        screen._css_update_count = app._css_update_count
