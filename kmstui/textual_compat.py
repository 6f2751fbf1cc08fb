"""All that kmstui takes of Textual which Textual does not promise to keep: names that begin with an underscore.

pyproject.toml bounds Textual's version for their sake: with a new one, this module is what may break, and what is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import TextIOWrapper
from typing import Any

from textual import events
from textual.app import App
from textual.binding import Binding
from textual.cache import LRUCache
from textual.css.stylesheet import Stylesheet
from textual.dom import DOMNode
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.screen import Screen

from kmstui.threads import call_in

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
        """Set the theme's variables; where they are the same, nothing is parsed anew."""
        if variables != self._variables:
            super().set_variables(variables)

    def reparse(self) -> None:
        """Parse what has not been parsed with the present variables."""
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


class SteadyScreen(Screen[None]):
    """A screen that a switch to it neither lays out nor styles anew: both are as they were when it was left."""

    def _screen_resized(self, size: Size) -> None:
        if size != self._size:
            super()._screen_resized(size)

    def _on_screen_resume(self, event: events.ScreenResume) -> None:
        # What is focused, and the theme, are applied where they change.
        event.refresh_styles = False


class OutputDriver(LinuxDriver):
    """A driver as Textual's with an output of one's own, which is stdout whatever stderr is."""

    def __init__(self, app: App[Any], output: TextIOWrapper[Any], **given: Any) -> None:
        super().__init__(app, **given)
        self._file = output

    def leave(self, code: int) -> None:
        """Have the app exit with this code. May be called on any thread."""
        call_in(self._loop, self._app.exit, None, code)


def bindings_of(node: DOMNode) -> Iterator[Binding]:
    """Return the bindings of a widget or screen itself, without those of what is around it."""
    return (binding for _, binding in node._bindings)


def forget_copied(app: App[Any]) -> None:
    """Keep nothing of what was copied last, which Textual holds for its own fields: the terminal has it."""
    app._clipboard = ""
