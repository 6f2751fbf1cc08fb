"""Which kmsd to look at, of those that were named."""

from __future__ import annotations

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
from kmstui import styles
from kmstui.view import Reading, View
from kmstui.widgets.rows import Rows


class TargetDialog(ModalScreen[str | None]):
    """A choice of the target to look at. Dismissed with the target, or None if it stays."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,t,q", "dismiss", "Cancel", show=False)]

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        with Vertical(id="choice") as box:
            box.border_title = "Targets"
            box.border_subtitle = "↑ ↓ j k choose, Enter goes there, Esc closes"
            yield Rows(*(Option(self._line(target), id=str(at)) for at, target in enumerate(self._view.targets)))

    def on_mount(self) -> None:
        self.query_one(Rows).highlighted = self._view.targets.index(self._view.target)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._view.targets[event.option_index])

    def _line(self, target: str) -> Content:
        known = {peer.target: peer.status for peer in self._view.peers}
        known[self._view.target] = self._view.status
        reading = known.get(target, Reading())
        if reading.error is not None:
            look = styles.NO_ANSWER
        elif reading.value is not None:
            look = styles.serving(reading.value.state)
        else:
            return Content.assemble("  ", escape(target))
        return Content.assemble((f"{look.glyph} ", f"${look.colour}"), escape(target), (f"  {look.word}", "dim"))
