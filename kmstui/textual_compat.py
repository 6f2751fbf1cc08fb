"""All that kmstui takes of Textual which Textual does not promise to keep: names that begin with an underscore.

pyproject.toml bounds Textual's version for their sake: with a new one, this module is what may break, and what is read.
"""

from __future__ import annotations

from typing import Any

from textual import events
from textual.app import App
from textual.cache import LRUCache
from textual.css.stylesheet import Stylesheet

SOURCES = 1024
"""Pieces of CSS whose rules are kept: one for each class of widgets."""


class ParsedOnce(Stylesheet):
    """A stylesheet that parses each piece of CSS once, as long as the theme's variables stay.

    Textual's own parses all of them twice while it starts, and once more whenever a theme is set: 15 ms each time.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables=variables)
        self._parse_cache = LRUCache(SOURCES)

    def set_variables(self, variables: dict[str, str]) -> None:
        if variables != self._variables:
            super().set_variables(variables)

    def reparse(self) -> None:
        self.parse()


async def make_screen(app: App[Any], mode: str) -> None:
    """Make the screen of a mode as Textual does when it is first switched to, and leave it where it is; once made,
    nothing."""
    if mode in app._screen_stacks:
        return
    await app._init_mode(mode)
    for screen in app._screen_stacks[mode]:
        screen.post_message(events.ScreenSuspend())
        # Made with the present colours, it need not be styled again when it is first shown.
        screen._css_update_count = app._css_update_count
