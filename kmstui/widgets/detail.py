"""All there is to say about one row: what the columns had to cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content

from kmstui.styles import Colour
from kmstui.text import hang, width
from kmstui.widgets.steady import Said, set_title


@dataclass(frozen=True)
class Fact:
    """A line without a name belongs to the one before it. text: escaped."""

    name: str
    text: str
    colour: Colour = Colour.PLAIN


class Detail(VerticalScroll, can_focus=False):
    """A pane beside its table on a wide screen, below it on a narrow one."""

    def compose(self) -> ComposeResult:
        yield Said()

    def show(self, title: str, facts: Sequence[Fact]) -> None:
        set_title(self, Content(title))
        self._facts = tuple(facts)
        self.set_class(not facts, "-empty")
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    _facts: tuple[Fact, ...] = ()

    def _draw(self) -> None:
        columns = self.scrollable_content_region.width
        if columns <= 0:
            return
        indent = max((width(fact.name) for fact in self._facts), default=0) + 2
        lines = [
            Content.assemble((f"{fact.name:<{indent}}", "dim"), (hang(fact.text, columns, indent), f"${fact.colour}"))
            for fact in self._facts
        ]
        self.query_one(Said).say(Content("\n").join(lines), fits=True)
