"""One thing in full: what a table had to cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from kmstui.text import as_json, hang, width
from kmstui.widgets.detail import Fact
from kmstui.widgets.rows import Text


class RecordDialog(ModalScreen[None]):
    """A record in full. item: the dataclass that `y` copies."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close", show=False),
        Binding("y", "copy", "Copy as JSON", show=False),
    ]

    def __init__(self, title: str, facts: Sequence[Fact], item: Any) -> None:
        super().__init__()
        self._heading = title
        self._facts = tuple(facts)
        self._item = item

    def compose(self) -> ComposeResult:
        with Text(id="dialog") as box:
            box.border_title = Content(self._heading)
            box.border_subtitle = "Esc closes, y copies as JSON"
            yield Static(id="facts")

    def on_resize(self) -> None:
        columns = max(20, self.query_one("#dialog").scrollable_content_region.width)
        indent = max((width(fact.name) for fact in self._facts), default=0) + 2
        lines = [
            Content.assemble((f"{fact.name:<{indent}}", "dim"), (hang(fact.text, columns, indent), f"${fact.colour}"))
            for fact in self._facts
        ]
        self.query_one("#facts", Static).update(Content("\n").join(lines))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(as_json(self._item))
        self.notify("copied as JSON", markup=False)
