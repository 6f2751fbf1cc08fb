"""Rows under a header, one of which has the cursor and is kept in sight. Knows nothing of what is in them."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.reactive import reactive
from textual.scroll_view import ScrollView

HEAD = 1
"""Lines of the header, which does not scroll."""


class CursorRows(ScrollView):
    """A subclass draws the rows, and says how many there are and what follows when the cursor moves."""

    MOVES: ClassVar[list[BindingType]] = [
        # Described in the help of the listing, in one line.
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
    ]

    cursor: reactive[int] = reactive(0)

    @property
    def count(self) -> int:
        """The number of rows."""
        raise NotImplementedError

    def tell(self) -> None:
        """Say that the cursor is on another row."""
        raise NotImplementedError

    def watch_cursor(self, before: int, now: int) -> None:
        across, top = self.scrollable_content_region.width, self.scroll_offset.y
        self.refresh(*(Region(0, at - top + HEAD, across, 1) for at in (before, now) if at >= top))
        self.tell()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.count - 1))

    def action_move(self, by: int) -> None:
        self.cursor += by
        self.keep_in_sight()

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - HEAD - 1))

    def action_first(self) -> None:
        self.cursor = 0
        self.keep_in_sight()

    def action_last(self) -> None:
        self.cursor = self.count - 1
        self.keep_in_sight()

    def keep_in_sight(self) -> None:
        """Scroll so that the cursor is in sight."""
        top, height = self.scroll_offset.y, max(1, self.size.height - HEAD)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
