"""What every screen with data has in common: title, troubles, table, footer; a word when it is too small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from kmstui.store import Moment, Reading, View
from kmstui.text import duration
from kmstui.troubles import troubles
from kmstui.widgets.detail import Detail
from kmstui.widgets.grid import Grid
from kmstui.widgets.title import TabLine, Title
from kmstui.widgets.trouble import TroubleList

NAMES = ("Overview", "Slots")
"""Of the screens, in the order of their number keys."""
LEAST_WIDTH, LEAST_HEIGHT = 60, 18
"""Columns and rows below which nothing useful fits."""
DETAIL_HEIGHT = 22
"""Rows from which on there is room for the detail under the table."""
WHOLE_HEIGHT = 32
"""Rows from which on there is room for all of it, and for many troubles."""


class Page(Screen[None]):
    """name: one of NAMES."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("slash", "filter", "Filter", key_display="/")]
    NAME: ClassVar[str]

    view: View | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="all"):
            yield Title()
            yield TabLine(NAMES, self.NAME)
            yield TroubleList()
            with Vertical(id="data"):
                yield from self.data()
                yield Detail()
            yield Footer(show_command_palette=False, compact=True)
        yield Static(id="too-small")

    def data(self) -> Iterable[Widget]:
        """The widgets that show what kmsd told."""
        raise NotImplementedError

    def show(self, view: View, moment: Moment) -> None:
        self.view = view
        self.query_one(Title).show(view, moment)
        self.query_one(TabLine).show(view, moment)
        found = troubles(view, moment)
        self.query_one(TroubleList).show(found)
        self.set_class(bool(found), "-troubled")
        self.query_one("#data").set_class(view.lost, "-stale")
        self.show_data(view, moment)
        self.show_detail(self.query_one(Grid).current)

    def show_data(self, view: View, moment: Moment) -> None:
        raise NotImplementedError

    def show_detail(self, key: str | None) -> None:
        """key: of the row under the cursor."""
        raise NotImplementedError

    def action_filter(self) -> None:
        self.query_one(Grid).open_filter()

    def on_grid_moved(self, event: Grid.Moved) -> None:
        self.show_detail(event.key)

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        small = width < LEAST_WIDTH or height < LEAST_HEIGHT
        self.set_class(small, "-too-small")
        self.set_class(height < DETAIL_HEIGHT, "-no-detail")
        self.set_class(height < WHOLE_HEIGHT, "-low")
        if small:
            text = f"kmstui needs {LEAST_WIDTH}x{LEAST_HEIGHT}.\nThis terminal is {width}x{height}.\nq quits"
            self.query_one("#too-small", Static).update(Content(text))


def age(view: View, reading: Reading[Any], moment: Moment) -> str:
    """How old data is that could not be read anew; empty while it is fresh."""
    if reading.value is None or not (view.lost or reading.error):
        return ""
    return f"as of {duration(moment.steady - reading.taken)} ago"


def waiting(view: View, reading: Reading[Any], none: str) -> str:
    """What an empty table says. none: if it is empty because there is nothing."""
    if reading.value is not None:
        return none
    return "cannot be read now" if view.lost or reading.error else "waiting for the first answer"
