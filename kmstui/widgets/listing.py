"""A table in a frame, with a filter and a word for when it is empty. Knows nothing of what the rows mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input

from kmsd.client import escape
from kmstui.text import MOST_PATTERN, TextFilter, parse_filter, shorten
from kmstui.view import Moment
from kmstui.widgets.columns import ItemKind
from kmstui.widgets.deeds import RowDeeds
from kmstui.widgets.search import Search, Texts
from kmstui.widgets.steady import Said, set_subtitle, set_title
from kmstui.widgets.table import Table

T = TypeVar("T")

MOMENT, PAUSE = 0.005, 0.001
"""Seconds that a filter looks at rows, and then lets everything else be done."""


class Listing(RowDeeds[T]):
    """A table in a frame. Keys: / filters, c copies what names the row, y copies the row as JSON, both by OSC 52."""

    HELP: ClassVar[str] = (
        "↑ ↓ j k, PgUp PgDn, Home End g G move in a table. A filter is a regular expression; with ! before it, all "
        "that does not match is shown. Enter keeps it, Esc clears it. A click on a title sorts by it. Where rows can "
        "be marked, Space or a click on the left margin marks one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        *RowDeeds.DEEDS,
        Binding("escape", "clear", "Clear"),
    ]

    @dataclass
    class Changed(Message):
        """A note that its filter or its order has changed."""

        listing: Listing[Any]

    @dataclass
    class Widened(Message):
        """A note that Esc was pressed: what narrows the rows, beside the filter, is to go."""

        listing: Listing[Any]

    def __init__(self, kind: ItemKind[T], *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(kind, id)
        self._found: tuple[T, ...] = ()
        self._texts = Texts(kind.sought)
        self._search: Search[T] | None = None
        self._looking: Timer | None = None
        self._filter = parse_filter("")
        self._complaint = ""
        self._empty = ""
        self._note = ""
        self._narrowed = ""
        self.order = kind.order

    def compose(self) -> ComposeResult:
        yield Input(
            placeholder="regular expression, ! inverts; Enter keeps it, Esc clears it",
            compact=True,
            max_length=MOST_PATTERN,
        )
        yield Table(self.kind)
        yield Said(id="empty")

    def on_mount(self) -> None:
        self.query_one(Input).display = False
        if self.order is not None:
            self.table.sort_by(*self.order)
        self.frame()

    @property
    def filter_text(self) -> str:
        return self._filter.text

    def restore(self, pattern: str, order: tuple[str, bool] | None) -> None:
        """Filter and order as they were; what does not fit is left out."""
        try:
            self._filter = parse_filter(pattern)
        except ValueError:
            return
        self._seek()
        self.order = order or self.kind.order
        if self.is_mounted and self.order is not None:
            self.table.sort_by(*self.order)

    def seek(self, pattern: str) -> None:
        """Filter by a regular expression, as if it had been typed."""
        self._set_filter(parse_filter(pattern))

    def show(self, items: Sequence[T], moment: Moment, *, empty: str, note: str = "", narrowed: str = "") -> None:
        """Show items. empty: what it says when there are none. note: what the title says beside their number. narrowed:
        which items these are, if not all; Esc then asks for all."""
        self._narrowed = narrowed
        self.moment = moment
        if items is not self.all:
            self.all = items if isinstance(items, tuple) else tuple(items)
            self.table.marks.keep(self.all)
            self._texts.forget(self.all)
            self._seek()
        self._empty, self._note = empty, note
        self._draw()

    def go_to(self, ident: str) -> bool:
        """Move the cursor to an item, through the filter if need be. Return whether there is one."""
        if self.table.go_to(ident):
            return True
        if self._filter.text and any(self.kind.ident(item) == ident for item in self.all):
            self.action_clear_filter()
        return self.table.go_to(ident)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        typing = self.is_mounted and self.query_one(Input).has_focus
        if action == "clear":
            return typing or bool(self._filter.text or self._narrowed or self.marked)
        return not typing and (self.kind.markable or not action.startswith("mark"))

    def action_clear(self) -> None:
        """Clear the filter; where there is none, the marks."""
        if self._filter.text or self.query_one(Input).has_focus:
            self.action_clear_filter()
        elif self._narrowed:
            self.post_message(self.Widened(self))
        else:
            self.clear_marks()

    def action_filter(self) -> None:
        entry = self.query_one(Input)
        entry.value = self._filter.text
        entry.display = True
        entry.focus()

    def action_clear_filter(self) -> None:
        entry = self.query_one(Input)
        entry.value = ""
        entry.display = False
        self._set_filter(parse_filter(""))
        self.table.focus()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        try:
            self._set_filter(parse_filter(event.value))
        except ValueError as error:
            # The last good filter goes on working while a new one is being typed.
            self._complaint = str(error)
            self.frame()

    @on(Input.Submitted)
    def _keep(self, event: Input.Submitted) -> None:
        event.stop()
        if self._complaint:
            # What would be kept is the last good filter, which is not what stands here.
            self.notify(self._complaint, title="This cannot be a filter", severity="warning", markup=False)
            return
        self.query_one(Input).display = False
        self.table.focus()
        self.frame()

    @on(Table.Sorted)
    def _sorted(self, event: Table.Sorted) -> None:
        event.stop()
        self.order = (event.column, event.falling)
        self.post_message(self.Changed(self))

    def _set_filter(self, wanted: TextFilter) -> None:
        self._complaint = ""
        if wanted.text != self._filter.text:
            self._filter = wanted
            self._seek()
            self.post_message(self.Changed(self))
        self._draw()

    def _seek(self) -> None:
        """Look for what the filter keeps. What was kept before stays on the screen until all rows have been looked
        at."""
        self._search = Search(self.all, self._texts, self._filter) if self._filter.text else None
        if self._search is None:
            self._found = self.all
        else:
            self._look()

    def _look(self) -> None:
        """Look at rows for a moment; then what was typed is painted, and keys are heard."""
        if self._looking is not None:
            self._looking.stop()
            self._looking = None
        search = self._search
        if search is None:
            return
        search.go_on(MOMENT)
        if search.done:
            self._found, self._search = tuple(search.kept), None
            self._draw()
        else:
            self._looking = self.set_timer(PAUSE, self._look)

    def _draw(self) -> None:
        if self.is_mounted:
            self.table.show(self._found, self.all, self.moment)
            self.frame()

    def frame(self) -> None:
        total, count, text = len(self.all), len(self._found), self._filter.text
        kept = f"{count:,}" if self._search is None else "…"
        tally = f"{kept} of {total:,}" if text else f"{total:,}"
        sought = f"  /{shorten(escape(text), 30)}" if text else ""
        narrowed = f"  {self._narrowed}" if self._narrowed else ""
        marks = f"  {len(self.table.marks)} marked" if self.table.marks else ""
        # Content, because a plain string would be read as markup.
        set_title(self, Content(f"{self.kind.name} ({tally}){narrowed}{marks}{sought}"))
        set_subtitle(self, Content(self._complaint or self._note) if self._complaint or self._note else None)
        self.set_class(bool(self._complaint), "-complains")
        self.set_class(count == 0, "-empty")
        said = self._empty if not total else "nothing matches; Esc clears the filter"
        self.query_one("#empty", Said).say(Content(said))
