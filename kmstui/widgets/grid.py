"""A table that keeps its place while its rows change under it, and a filter for it.

Knows nothing of what the rows mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from kmstui.looks import Colour
from kmstui.text import matches, shorten
from kmstui.widgets.columns import Column, fit, natural_widths

_GAP = 2
"""DataTable pads each cell by one column on both sides."""


@dataclass(frozen=True)
class Row:
    """key: tells this row from the others, and stays. cells: one escaped text for each column. colour: of the
    first cell. sought: what the filter looks in."""

    key: str
    cells: tuple[str, ...]
    colour: Colour
    sought: tuple[str, ...]


class Grid(Vertical):
    """name: what it shows, for its title. empty: what it says when there are no rows."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear_filter", "Clear the filter", show=False),
    ]

    @dataclass
    class Moved(Message):
        """Another row is the current one, or none is."""

        key: str | None

    def __init__(self, name: str, columns: Sequence[Column], *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._what = name
        self._columns = tuple(columns)
        self._rows: tuple[Row, ...] = ()
        self._empty = ""
        self._age = ""
        self._pattern = re.compile("")
        self._complaint = ""
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        yield Input(placeholder="regular expression; Enter keeps it, Esc clears it", compact=True)
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=False)
        yield table
        yield Static(id="empty")

    def on_mount(self) -> None:
        self.query_one(Input).display = False

    def show(self, rows: Sequence[Row], empty: str, age: str) -> None:
        """age: what the title says of the age of the data; empty while it is fresh."""
        self._rows, self._empty, self._age = tuple(rows), empty, age
        self._draw()

    @property
    def current(self) -> str | None:
        """Key of the row under the cursor."""
        table = self._table()
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def open_filter(self) -> None:
        entry = self.query_one(Input)
        entry.display = True
        entry.focus()

    def action_clear_filter(self) -> None:
        entry = self.query_one(Input)
        entry.value = ""
        entry.display = False
        self._table().focus()

    def on_resize(self) -> None:
        self._draw()

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        try:
            self._pattern = re.compile(event.value, re.IGNORECASE)
            self._complaint = ""
        except re.error as error:
            # The last good pattern goes on working while a new one is being typed.
            self._complaint = f"not a regular expression: {error.msg}"
        self._draw()

    @on(Input.Submitted)
    def _keep_filter(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one(Input).display = bool(event.value)
        self._table().focus()

    @on(DataTable.RowHighlighted)
    def _moved(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self.post_message(self.Moved(event.row_key.value))

    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def _draw(self) -> None:
        found = tuple(row for row in self._rows if matches(self._pattern, row.sought))
        self._draw_frame(len(found))
        # The widths come from all rows, so that columns stay where they are while a filter is typed.
        natural = natural_widths(self._columns, [row.cells for row in self._rows])
        table = self._table()
        room = self.content_size.width - table.styles.scrollbar_size_vertical
        widths = fit(self._columns, natural, room, _GAP)
        drawn = (found, widths)
        if drawn == self._drawn or room <= 0:
            return
        self._drawn = drawn
        self._fill(table, found, widths)

    def _draw_frame(self, count: int) -> None:
        total = len(self._rows)
        tally = f"{count} of {total}" if self._pattern.pattern else str(total)
        sought = f"  /{self._pattern.pattern}" if self._pattern.pattern else ""
        age = f"  {self._age}" if self._age else ""
        # Content, because a plain string would be read as markup.
        self.border_title = Content(f"{self._what} ({tally}){sought}{age}")
        self.border_subtitle = Content(self._complaint) if self._complaint else None
        empty = self.query_one("#empty", Static)
        empty.display = count == 0
        self.set_class(count == 0, "-empty")
        empty.update(Content(self._empty if not total else "nothing matches; Esc clears the filter"))

    def _fill(self, table: DataTable[Text], rows: tuple[Row, ...], widths: tuple[tuple[int, int], ...]) -> None:
        current, index, top = self.current, table.cursor_row, table.scroll_y
        with self.prevent(DataTable.RowHighlighted):
            table.clear(columns=True)
            for at, width in widths:
                title = self._columns[at].title
                table.add_column(Text(title, justify=self._justify(at)), width=width)
            for row in rows:
                table.add_row(*(self._cell(row, at, width) for at, width in widths), key=row.key)
            keys = [row.key for row in rows]
            to = keys.index(current) if current in keys else min(index, max(0, len(keys) - 1))
            table.move_cursor(row=to, animate=False, scroll=False)
        table.scroll_to(y=top, animate=False, immediate=True)
        self.post_message(self.Moved(keys[to] if keys else None))

    def _cell(self, row: Row, at: int, width: int) -> Text:
        colour = self.app.theme_variables[row.colour] if at == 0 and row.colour is not Colour.PLAIN else ""
        return Text(shorten(row.cells[at], width), style=colour, justify=self._justify(at))

    def _justify(self, at: int) -> Literal["left", "right"]:
        return "right" if self._columns[at].right else "left"
