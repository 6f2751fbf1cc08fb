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
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from kmsd.client import escape
from kmstui.styles import Colour
from kmstui.text import pad
from kmstui.view import Moment
from kmstui.widgets.columns import Column, ItemKind, fit, natural_widths
from kmstui.widgets.marks import Marks

T = TypeVar("T")

_GAP = 2
_MARGIN = 1
_MARK = "*"
_HEAD = 1
"""Lines of the header, which does not scroll."""


class Table(ScrollView, Generic[T], can_focus=True, inherit_bindings=False):
    """One line for each item; the header's titles sort when clicked."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor", "table--cursor-blurred", "table--faint"}
    BINDINGS: ClassVar[list[BindingType]] = [
        # Described in the help of the listing, in one line.
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
        Binding("enter", "choose", "Open the row", show=False),
        Binding("s", "sort", "Sort by the next column", show=False),
        Binding("S", "reverse", "Sort the other way round", show=False),
    ]

    cursor: reactive[int] = reactive(0)

    @dataclass
    class Moved(Message):
        """Another item is the current one, or none is."""

        item: Any

    @dataclass
    class Chosen(Message):
        """Enter on an item, or a second click."""

        item: Any

    @dataclass
    class Margin(Message):
        """A click on the left margin of a row, where its mark stands."""

        item: Any

    @dataclass
    class Sorted(Message):
        """By another column, or the other way round."""

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
        """Changed by whoever then calls `redraw_marks`."""

    # What it is given.

    def show(self, items: Sequence[T], sample: Sequence[T], moment: Moment) -> None:
        """sample: all there is, of which `items` may be a part: the columns do not move while a filter is typed."""
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
            self._redraw()
        elif aged:
            self._age()

    @property
    def current(self) -> T | None:
        """The item under the cursor."""
        return self._items[self.cursor] if self.cursor < len(self._items) else None

    @property
    def items(self) -> Sequence[T]:
        """As they are shown."""
        return self._items

    def sort_by(self, title: str, falling: bool) -> None:
        """A title that is none of its own changes nothing."""
        titles = [column.title for column in self._kind.columns if column.order is not None]
        if title in titles:
            self._set_order(next(at for at, each in enumerate(self._kind.columns) if each.title == title), falling)

    def go_to(self, ident: str) -> bool:
        """The cursor to the item with this identity; whether there is one."""
        at = self._index_of(ident)
        if at is None:
            return False
        self.cursor = at
        self._keep_in_sight()
        return True

    def _arrange(self) -> None:
        """Sorts, and puts the cursor back to the item it was on."""
        before, index = self._told, self.cursor
        at_end = self._kind.tail and self._order is None and index >= len(self._items) - 1
        items = self._given
        if self._order is not None:
            order = self._kind.columns[self._order].order
            assert order is not None  # noqa: S101 - only such columns are sorted by
            items = sorted(items, key=order, reverse=self._falling)
        shift = self.scroll_offset.y
        self._items = items
        self.virtual_size = Size(0, len(items) + _HEAD)
        found = self._index_of(before) if before is not None and not at_end else None
        last = max(0, len(items) - 1)
        self.set_reactive(Table.cursor, last if at_end else found if found is not None else min(index, last))
        if at_end:
            self.scroll_to(y=len(items), animate=False, force=True)
        elif found is not None and found != index:
            # What is looked at stays where it is on the screen.
            self.scroll_to(y=max(0, shift + found - index), animate=False, force=True)
        self._tell()

    def _index_of(self, ident: str) -> int | None:
        get = self._kind.ident
        return next((at for at, item in enumerate(self._items) if get(item) == ident), None)

    def _tell(self) -> None:
        item = self.current
        ident = self._kind.ident(item) if item is not None else None
        if ident != self._told:
            self._told = ident
            self.post_message(self.Moved(item))

    # Drawing.

    def on_resize(self) -> None:
        self._fit()
        self._redraw()
        self._keep_in_sight()

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def _fit(self) -> None:
        room = self.scrollable_content_region.width - 2 * _MARGIN
        self._widths = fit(self._kind.columns, self._natural, room, _GAP) if self._natural and room > 0 else ()

    def _redraw(self) -> None:
        self._strips.clear()
        self.refresh()

    def redraw_marks(self) -> None:
        self._redraw()

    def _age(self) -> None:
        """Paint the rows in sight that say something else by now."""
        across = self.scrollable_content_region.width
        for (at, state), strip in list(self._strips.items()):
            y = at - self.scroll_offset.y + _HEAD
            if not _HEAD <= y < self.size.height or at >= len(self._items):
                del self._strips[at, state]
                continue
            fresh = self._row(self._items[at], state, across)
            if fresh != strip:
                self._strips[at, state] = fresh
                self.refresh(Region(0, y, across, 1))

    def render_line(self, y: int) -> Strip:
        if y < _HEAD:
            return self._head()
        at = y - _HEAD + self.scroll_offset.y
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
            segments.append(Segment(gap + text, self._styled(base, column, item)))
            used += len(gap) + columns
        segments.append(Segment(" " * max(0, across - used), base))
        return Strip(segments, max(used, across)).crop(0, across)

    def _styled(self, base: Style, column: Column[T], item: T) -> Style:
        colour = column.colour(item) if column.colour is not None else Colour.PLAIN
        return base if colour is Colour.PLAIN else base + Style.parse(self.app.theme_variables[colour])

    # Moving.

    def watch_cursor(self, before: int, now: int) -> None:
        across, top = self.scrollable_content_region.width, self.scroll_offset.y
        self.refresh(*(Region(0, at - top + _HEAD, across, 1) for at in (before, now) if at >= top))
        self._tell()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self._items) - 1))

    def action_move(self, by: int) -> None:
        self.cursor += by
        self._keep_in_sight()

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - _HEAD - 1))

    def action_first(self) -> None:
        self.cursor = 0
        self._keep_in_sight()

    def action_last(self) -> None:
        self.cursor = len(self._items) - 1
        self._keep_in_sight()

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Chosen(self.current))

    def action_sort(self) -> None:
        sortable = [at for at, column in enumerate(self._kind.columns) if column.order is not None]
        shown = [at for at, _ in self._widths if at in sortable]
        if not shown:
            return
        after = shown[(shown.index(self._order) + 1) % len(shown)] if self._order in shown else shown[0]
        self._set_order(after, self._kind.columns[after].falling)
        self._say_sorted()

    def action_reverse(self) -> None:
        if self._order is not None:
            self._set_order(self._order, not self._falling)
            self._say_sorted()

    def _set_order(self, order: int, falling: bool) -> None:
        self._order, self._falling = order, falling
        self._arrange()
        self._redraw()

    def _say_sorted(self) -> None:
        if self._order is not None:
            self.post_message(self.Sorted(self._kind.columns[self._order].title, self._falling))

    def _keep_in_sight(self) -> None:
        top, height = self.scroll_offset.y, max(1, self.size.height - _HEAD)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)

    async def on_click(self, event: events.Click) -> None:
        if event.y < _HEAD:
            self._click_head(event.x)
            return
        at = event.y - _HEAD + self.scroll_offset.y
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
                self._set_order(index, not self._falling if same else self._kind.columns[index].falling)
                self._say_sorted()
                return
            left += columns + _GAP
