"""The Textual program that kmstui is before it knows of kmsd: themes, keys in their turn, and a whole way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from time import monotonic

from rich.console import RenderableType
from textual import events
from textual.app import App
from textual.driver import Driver
from textual.theme import Theme

from kmstui import themes
from kmstui.textual_compat import ParsedOnce
from kmstui.typeahead import Passed, Typeahead

SWITCH_PAUSE = 0.001
"""Seconds for which nothing is painted after a switch to another screen, which shows what there is at once: Textual's
own 50 ms are half of what a key may take to show."""

MADE_WITHIN = 3.0
"""Seconds that leaving waits for screens that are being made."""


class Frame(App[None]):
    """The program as Textual knows it. driver: None: Textual's own."""

    def __init__(self, driver: type[Driver] | None) -> None:
        super().__init__(driver_class=driver)
        self.stylesheet = ParsedOnce(self.get_css_variables())
        for theme in themes.THEMES.values():
            self.register_theme(theme)
        self.making = asyncio.Lock()
        """Held while a screen is made, and for good once the program is left."""
        self._typeahead = Typeahead(self, super().on_event)
        self._typed = 0.0
        self._leaving: asyncio.Task[None] | None = None

    @property
    def leaving(self) -> bool:
        return self._leaving is not None

    def quiet(self) -> float:
        """Return seconds since the last key."""
        return monotonic() - self._typed

    def exit(self, result: None = None, return_code: int = 0, message: RenderableType | None = None) -> None:
        """Leave once each screen is whole. From Textual's exit on no widget comes to be: a screen that is half made
        ends with the traceback of what misses its parts, or is waited for until Textual gives up on it."""
        if self._leaving is None:
            leave = partial(super().exit, result, return_code, message)
            self._leaving = asyncio.get_running_loop().create_task(self._leave(leave))

    async def _leave(self, leave: Callable[[], None]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MADE_WITHIN):
                await self.making.acquire()  # and keep it: no other screen is begun
                while not all(screen.is_mounted for screen in self.screen_stack):  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(0.01)
        leave()

    def delay_update(self, delay: float = SWITCH_PAUSE) -> None:
        """Paint nothing for a moment, which is shorter than Textual's own."""
        super().delay_update(min(delay, SWITCH_PAUSE))

    def get_theme(self, theme_name: str) -> Theme | None:
        # Asked for with every piece of the screen that is painted.
        """Return a theme by its name."""
        return themes.THEMES.get(theme_name) or super().get_theme(theme_name)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            self._typed = monotonic()
            await self._typeahead.take(event)
        else:
            await super().on_event(event)

    def on_passed(self, message: Passed) -> None:
        self._typeahead.passed(message)
