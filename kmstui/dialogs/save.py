"""Asks for the file that a row or a table is saved to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Select, Static

from kmsd.client import InvalidRequest, escape
from kmstui import saving
from kmstui.action import Action, ActionOutcome, Done
from kmstui.dialogs.dialog import Dialog, field
from kmstui.text import plural
from kmstui.view import Moment
from kmstui.widgets.columns import ItemKind

MOST_PATH = 4096


class SaveDialog(Dialog):
    """A form that saves rows to a file. choices: (what they are, in words; the rows) each, the first one first."""

    HELP = (
        "Saves rows to a file that only you can read: all fields as .csv or .json, or the table's columns as .txt. A "
        "file that is there already is overwritten only if you say so."
    )

    def __init__(
        self, target: str, kind: ItemKind[Any], choices: Sequence[tuple[str, Sequence[Any]]], moment: Moment
    ) -> None:
        super().__init__(target, f"Save {kind.name.lower()}", "Save")
        self._kind = kind
        self._choices = tuple(choices)
        self._moment = moment
        self._there = ""
        """The file that may be overwritten if it is asked for once more."""

    def fields(self) -> Iterable[Widget]:
        options = [(words, at) for at, (words, _) in enumerate(self._choices)]
        yield field("what", Select(options, value=0, allow_blank=False, id="what", compact=True))
        name = f"{self._kind.name.lower()}.json"
        yield field("file", Input(name, id="path", max_length=MOST_PATH, compact=True))
        yield Static(Content.styled("the ending chooses: .csv, .json, .txt", "dim"))

    def draft(self) -> Action:
        typed, rows = self._typed, self._rows
        overwrite = bool(typed) and typed == self._there
        form = () if typed.lower().endswith(".txt") else ("-o", "json")

        def here() -> ActionOutcome:
            path = saving.path_of(typed)
            size = saving.save(path, self._kind, rows, self._moment, overwrite=overwrite)
            return ActionOutcome(f"saved {plural(len(rows), 'row')}, {size:,} bytes, to {escape(str(path))}")

        words = (*self._kind.command, *form)
        return Action(f"save {escape(typed)}", words, lambda _: here(), changes=False, here=here, into=typed or "FILE")

    def missing(self) -> str:
        if not self._typed:
            return "name a file"
        try:
            saving.path_of(self._typed)
        except InvalidRequest as error:
            return error.hint
        return ""

    def refresh_form(self) -> None:
        super().refresh_form()
        again = bool(self._there) and self._typed == self._there
        self.query_one("#ok", Button).label = "Overwrite" if again else "Save"

    def _done(self, done: Done) -> None:
        self._there = self._typed if isinstance(done.error, saving.Exists) and self.is_mounted else ""
        super()._done(done)
        if self.is_mounted:
            self.refresh_form()

    @property
    def _typed(self) -> str:
        return self.query_one("#path", Input).value

    @property
    def _rows(self) -> Sequence[Any]:
        chosen = self.query_one("#what", Select).value
        return self._choices[chosen if isinstance(chosen, int) else 0][1]
