"""The deeds done with the rows of a table: they are marked, copied and saved. Knows nothing of what the rows mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message

from kmsd.client import escape
from kmstui.text import as_json, plural
from kmstui.view import Moment
from kmstui.widgets.columns import ItemKind
from kmstui.widgets.marks import MOST
from kmstui.widgets.table import Table

T = TypeVar("T")


class RowDeeds(Vertical, Generic[T]):
    """A subclass composes the table, and draws what is around it."""

    DEEDS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy id"),
        Binding("y", "copy_row", "Copy as JSON", show=False),
        Binding("W", "save", "Save to a file", show=False),
        Binding("space", "mark", "Mark", show=False),
        Binding("asterisk", "mark_all", "Mark all that are shown, or none", key_display="*", show=False),
    ]

    @dataclass
    class Save(Message):
        """A request to save rows to a file. Rows are to be saved to a file. choices: (what they are, in words; the
        rows) each."""

        kind: ItemKind[Any]
        choices: tuple[tuple[str, tuple[Any, ...]], ...]
        moment: Moment

    def __init__(self, kind: ItemKind[T], id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.kind = kind
        self.all: tuple[T, ...] = ()
        """All rows, those too that a filter hides."""
        self.moment = Moment.now()

    @property
    def filter_text(self) -> str:
        """Return what the rows are filtered by; empty: by nothing."""
        return ""

    def frame(self) -> None:
        """Draw what is around the table."""
        raise NotImplementedError

    @property
    def table(self) -> Table[T]:
        found: Table[T] = self.query_one(Table)
        return found

    @property
    def current(self) -> T | None:
        """The item under the cursor."""
        return self.table.current if self.is_mounted else None

    @property
    def marked(self) -> tuple[T, ...]:
        """The rows that are marked, in their order in the table; those that the filter hides too."""
        return tuple(self.table.marks.of(self.all)) if self.is_mounted else ()

    def action_mark(self) -> None:
        item = self.current
        if item is not None:
            self._mark(item)
            self.table.action_move(1)

    def action_mark_all(self) -> None:
        self._remark(self.table.marks.toggle_all(self.table.items))

    def clear_marks(self) -> None:
        """Take all marks away."""
        self.table.marks.clear()
        self._remark(True)

    @on(Table.Margin)
    def _margin(self, event: Table.Margin) -> None:
        event.stop()
        self._mark(event.item)

    def _mark(self, item: T) -> None:
        self._remark(self.table.marks.toggle(item))

    def _remark(self, took: bool) -> None:
        if not took:
            self.notify(f"at most {MOST} rows can be marked at once", severity="warning", markup=False)
        self.table.redraw()
        self.frame()
        self.refresh_bindings()
        self.post_message(Table.Moved(self.current))

    def action_copy(self) -> None:
        item = self.current
        text = self.kind.copied(item) if item is not None else ""
        if text:
            self.app.copy_to_clipboard(text)
            self.notify(f"copied {escape(text)}", markup=False)
        else:
            self.notify(f"there is no {self.kind.copied_name} to copy", severity="warning", markup=False)

    def action_copy_row(self) -> None:
        item = self.current
        if item is None:
            self.notify("there is no row to copy", severity="warning", markup=False)
            return
        data = self.kind.data(item) if self.kind.data is not None else item
        self.app.copy_to_clipboard(as_json(data))
        self.notify("copied the row as JSON", markup=False)

    def action_save(self) -> None:
        item, shown, marked = self.current, tuple(self.table.items), self.marked
        if item is None:
            self.notify("there is no row to save", severity="warning", markup=False)
            return
        which = f"that the filter keeps, of {len(self.all):,}" if self.filter_text else "of the table"
        choices = [(f"{plural(len(shown), 'row')} {which}", shown), ("the chosen row", (item,))]
        if marked:
            choices.insert(0, (f"{plural(len(marked), 'marked row')}", marked))
        self.post_message(self.Save(self.kind, tuple(choices), self.moment))
