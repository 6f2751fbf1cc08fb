"""A table that draws only the rows in sight, and keeps its place while they change under it.

Knows nothing of what the rows mean. Ten thousand of them cost as much as forty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from kmsd.client import escape
from kmstui.styles import Colour
from kmstui.text import pad
from kmstui.view import Moment
from kmstui.widgets.columns import ItemKind, fit, natural_widths
from kmstui.widgets.cursor import HEAD, CursorRows
from kmstui.widgets.marks import Marks

T = TypeVar("T")

_GAP = 2
_MARGIN = 1
_MARK = "*"


class Table(CursorRows, Generic[T], can_focus=True, inherit_bindings=False):
    """A table with one line for each item; the header's titles sort when clicked."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor", "table--cursor-blurred", "table--faint"}
    BINDINGS: ClassVar[list[BindingType]] = [
        # Described in the help of the listing, in one line.
        *CursorRows.MOVES,
        Binding("enter", "choose", "Open the row", show=False),
        Binding("s", "sort", "Sort by the next column", show=False),
        Binding("S", "reverse", "Sort the other way round", show=False),
    ]

    @dataclass
    class Moved(Message):
        """A note that another item is the current one, or none is."""

        item: Any

    @dataclass
    class Chosen(Message):
        """A note of Enter on an item, or of a second click."""

        item: Any

    @dataclass
    class Margin(Message):
        """A click on the left margin of a row, where its mark stands."""

        item: Any

    @dataclass
    class Sorted(Message):
        """A note that it is sorted by another column, or the other way round."""

        column: str
        falling: bool

    def __init__(self, kind: ItemKind[T]) -> None:
        super().__init__()
        self._kind = kind
        self._given: Sequence[T] = ()
        self._items: Sequence[T] = ()
        self._sample: Sequence[T] | None = None
        self._moment = Moment.now()
        self._order: int | None = None
        self._falling = False
        self._natural: tuple[int, ...] = ()
        self._widths: tuple[tuple[int, int], ...] = ()
        self._strips: dict[tuple[int, int], Strip] = {}
        self._told: str | None = None
        self.marks = Marks(kind.ident)
        """Changed by whoever then calls `redraw`."""

    # What it is given.

    def show(self, items: Sequence[T], sample: Sequence[T], moment: Moment) -> None:
        """Show items. sample: all there is, of which `items` may be a part: the columns do not move while a filter is
        typed."""
        again = items is self._given
        aged = moment.wall.replace(microsecond=0) != self._moment.wall.replace(microsecond=0)
        self._moment = moment
        if not again:
            self._given = items
            if sample is not self._sample:
                self._sample = sample
                self._natural = natural_widths(self._kind.columns, sample, moment)
            self._arrange()
            self._fit()
            self.redraw()
        elif aged:
            self._age()

    @property
    def current(self) -> T | None:
        """The item under the cursor."""
        return self._items[self.cursor] if self.cursor < len(self._items) else None

    @property
    def items(self) -> Sequence[T]:
        """The items as they are shown."""
        return self._items

    def sort_by(self, title: str, falling: bool) -> None:
        """Sort by a column. A title that is none of its own changes nothing."""
        titles = [column.title for column in self._kind.columns if column.order is not None]
        if title in titles:
            self._set_order(next(at for at, each in enumerate(self._kind.columns) if each.title == title), falling)

    def go_to(self, ident: str) -> bool:
        """Move the cursor to the item with this identity. Return whether there is one."""
        at = self._index_of(ident)
        if at is None:
            return False
        self.cursor = at
        self.keep_in_sight()
        return True

    def _arrange(self) -> None:
        """Sort, and put the cursor back to the item it was on."""
        before, index = self._told, self.cursor
        at_end = self._kind.tail and self._order is None and index >= len(self._items) - 1
        items = self._given
        if self._order is not None:
            order = self._kind.columns[self._order].order
            assert order is not None  # noqa: S101 - only such columns are sorted by
            items = sorted(items, key=order, reverse=self._falling)
        shift = self.scroll_offset.y
        self._items = items
        self.virtual_size = Size(0, len(items) + HEAD)
        found = self._index_of(before) if before is not None and not at_end else None
        last = max(0, len(items) - 1)
        self.set_reactive(Table.cursor, last if at_end else found if found is not None else min(index, last))
        if at_end:
            self.scroll_to(y=len(items), animate=False, force=True)
        elif found is not None and found != index:
            # What is looked at stays where it is on the screen.
            self.scroll_to(y=max(0, shift + found - index), animate=False, force=True)
        self.tell()

    def _index_of(self, ident: str) -> int | None:
        get = self._kind.ident
        return next((at for at, item in enumerate(self._items) if get(item) == ident), None)

    def tell(self) -> None:
        item = self.current
        ident = self._kind.ident(item) if item is not None else None
        if ident != self._told:
            self._told = ident
            self.post_message(self.Moved(item))

    # Drawing.

    def on_resize(self) -> None:
        self._fit()
        self.redraw()
        self.keep_in_sight()

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def _fit(self) -> None:
        room = self.scrollable_content_region.width - 2 * _MARGIN
        self._widths = fit(self._kind.columns, self._natural, room, _GAP) if self._natural and room > 0 else ()

    def redraw(self) -> None:
        """Draw all rows anew, as after marks have changed."""
        self._strips.clear()
        self.refresh()

    def _age(self) -> None:
        """Paint the rows in sight that say something else by now."""
        across = self.scrollable_content_region.width
        for (at, state), strip in list(self._strips.items()):
            y = at - self.scroll_offset.y + HEAD
            if not HEAD <= y < self.size.height or at >= len(self._items):
                del self._strips[at, state]
                continue
            fresh = self._row(self._items[at], state, across)
            if fresh != strip:
                self._strips[at, state] = fresh
                self.refresh(Region(0, y, across, 1))

    def render_line(self, y: int) -> Strip:
        if y < HEAD:
            return self._head()
        at = y - HEAD + self.scroll_offset.y
        across = self.scrollable_content_region.width
        if at >= len(self._items):
            return Strip.blank(across, self.rich_style)
        state = 0 if at != self.cursor else 2 if self.has_focus else 1
        strip = self._strips.get((at, state))
        if strip is None:
            strip = self._strips[at, state] = self._row(self._items[at], state, across)
        return strip

    def _head(self) -> Strip:
        style = self.get_component_rich_style("table--head")
        parts = []
        for index, columns in self._widths:
            column = self._kind.columns[index]
            mark = ("▾" if self._falling else "▴") if index == self._order else ""
            parts.append(pad(f"{column.title}{mark}", columns, right=column.right))
        text = " " * _MARGIN + (" " * _GAP).join(parts)
        across = self.scrollable_content_region.width
        return Strip([Segment(pad(text, across), style)], across)

    def _row(self, item: T, state: int, across: int) -> Strip:
        faint = self._kind.faint is not None and self._kind.faint(item)
        base = self.get_component_rich_style("table--faint") if faint else self.rich_style
        if state:
            name = "table--cursor" if state == 2 else "table--cursor-blurred"
            base = base + self.get_component_rich_style(name, partial=True)
        segments = [Segment(_MARK if item in self.marks else " " * _MARGIN, base)]
        used = _MARGIN
        for place, (index, columns) in enumerate(self._widths):
            column = self._kind.columns[index]
            gap = " " * (_GAP if place else 0)
            text = pad(escape(column.text(item, self._moment)), columns, right=column.right)
            colour = column.colour(item) if column.colour is not None else Colour.PLAIN
            style = base if colour is Colour.PLAIN else base + Style.parse(self.app.theme_variables[colour])
            segments.append(Segment(gap + text, style))
            used += len(gap) + columns
        segments.append(Segment(" " * max(0, across - used), base))
        return Strip(segments, max(used, across)).crop(0, across)

    @property
    def count(self) -> int:
        return len(self._items)

    # What the keys and the mouse do.

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Chosen(self.current))

    def action_sort(self) -> None:
        sortable = [at for at, column in enumerate(self._kind.columns) if column.order is not None]
        shown = [at for at, _ in self._widths if at in sortable]
        if not shown:
            return
        after = shown[(shown.index(self._order) + 1) % len(shown)] if self._order in shown else shown[0]
        self._sort(after, self._kind.columns[after].falling)

    def action_reverse(self) -> None:
        if self._order is not None:
            self._sort(self._order, not self._falling)

    def _set_order(self, order: int, falling: bool) -> None:
        self._order, self._falling = order, falling
        self._arrange()
        self.redraw()

    def _sort(self, order: int, falling: bool) -> None:
        self._set_order(order, falling)
        self.post_message(self.Sorted(self._kind.columns[order].title, falling))

    async def on_click(self, event: events.Click) -> None:
        if event.y < HEAD:
            self._click_head(event.x)
            return
        at = event.y - HEAD + self.scroll_offset.y
        if at >= len(self._items):
            return
        self.cursor = at
        if self._kind.markable and event.x < _MARGIN:
            self.post_message(self.Margin(self._items[at]))
        elif event.chain == 2:
            self.action_choose()

    def _click_head(self, x: int) -> None:
        left = _MARGIN
        for index, columns in self._widths:
            if left <= x < left + columns + _GAP and self._kind.columns[index].order is not None:
                same = index == self._order
                self._sort(index, not self._falling if same else self._kind.columns[index].falling)
                return
            left += columns + _GAP
