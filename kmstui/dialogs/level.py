"""Chooses the log level."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Select, Static

from kmstui import actions
from kmstui.action import Action
from kmstui.dialogs.dialog import Dialog, field

LEVELS = ("debug", "info", "warning", "error")


class LevelDialog(Dialog):
    """A choice of the log level. level: the present one; empty if it is not known."""

    HELP = "Sets the level to log from, until kmsd restarts or reloads; the configuration stays as it is."

    def __init__(self, target: str, level: str) -> None:
        super().__init__(target, "Log level", "Set")
        self._level = level

    def fields(self) -> Iterable[Widget]:
        present = self._level if self._level in LEVELS else "info"
        options = [(level, level) for level in LEVELS]
        yield field(
            "level", Select(options, value=present, allow_blank=False, type_to_search=False, id="level", compact=True)
        )
        yield Static(Content.styled("until kmsd restarts; debug names every call, and no secret", "dim"))

    def draft(self) -> Action:
        return actions.set_level(str(self.query_one("#level", Select).value))
