"""Which token to try out, where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from kmsd.client import escape


class DoctorDialog(ModalScreen[str | None]):
    """A choice of the token to be tried. tokens: names in kmsd's configuration. Dismissed with one of them, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Cancel", show=False),
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
    ]

    def __init__(self, target: str, tokens: Sequence[str]) -> None:
        super().__init__()
        self._tokens = tuple(tokens)

    def compose(self) -> ComposeResult:
        with Vertical(id="choice") as box:
            box.border_title = "Which token?"
            box.border_subtitle = "Enter runs, Esc cancels"
            yield OptionList(*(Option(Content(escape(name))) for name in self._tokens))

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._tokens[event.option_index])

    def action_down(self) -> None:
        self.query_one(OptionList).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(OptionList).action_cursor_up()
