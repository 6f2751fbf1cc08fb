"""The screens that nobody has looked at yet, made while nothing happens: making one takes longer than a key may."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from time import monotonic
from typing import Any

from textual import events
from textual.app import App

REST = 0.3
"""Seconds without a key before the next screen is made."""


class Ahead:
    """names: of the modes of the app. Hold `making` to change to a screen: it is then either made, or not begun."""

    def __init__(self, app: App[Any], names: Iterable[str]) -> None:
        self._app = app
        self._names = tuple(names)
        self._typed = 0.0
        self.making = asyncio.Lock()

    def typed(self) -> None:
        """A key was pressed: somebody is busy."""
        self._typed = monotonic()

    async def run(self) -> None:
        for name in self._names:
            await self._rest()
            async with self.making:
                await self._make(name)
        # What is there now stays: the collector of garbage needs not look at it again and again, which takes tens of
        # milliseconds each time.
        gc.collect()
        gc.freeze()

    async def _rest(self) -> None:
        pause = REST / 3
        while pause > 0:
            await asyncio.sleep(pause)
            pause = self._typed + REST - monotonic()

    async def _make(self, name: str) -> None:
        app = self._app
        if name in app._screen_stacks:
            return
        # Textual makes a screen when it is first switched to; this is that part of it.
        await app._init_mode(name)
        for screen in app._screen_stacks[name]:
            screen.post_message(events.ScreenSuspend())
            # Made with the present colours, it need not be styled again when it is first shown.
            screen._css_update_count = app._css_update_count
