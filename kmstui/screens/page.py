"""The common part of every screen with data: header, troubles, data, keys; a word when it is too small."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from kmstui import upstreams
from kmstui.commands import ScreenCommand
from kmstui.problem_list import again, troubles
from kmstui.screens.names import NAMES, NUMBERS, tabs
from kmstui.text import duration
from kmstui.textual_compat import SteadyScreen
from kmstui.view import Moment, Reading, Tail, View, Want
from kmstui.widgets.header import StateLine, TabLine, Title
from kmstui.widgets.keyline import KeyLine
from kmstui.widgets.listing import Listing
from kmstui.widgets.panel import Panel
from kmstui.widgets.problem import TroubleList
from kmstui.widgets.steady import Said
from kmstui.widgets.table import Table

LEAST_WIDTH, LEAST_HEIGHT = 60, 18
"""Columns and rows below which nothing useful fits."""
WIDE, BROAD = 120, 140
"""Columns from which on small things, and then large ones, stand side by side."""
LOW, HIGH = 22, 40
"""Rows below which only the most important has room, and from which on there is room for more."""
PLOTTED: tuple[BindingType, ...] = (
    Binding("z", "zoom", "Zoom"),
    Binding("z", "zoom_end", "Back"),
    Binding("w", "app.span", "Range"),
)
"""Keys that are worth a place in the last line on screens with plots."""
HELD = 0.05
"""Seconds between two presses below which a key is held down: terminals repeat it 25 to 30 times a second."""


class Page(SteadyScreen):
    """A screen with data. NAME: one of NAMES. WANTS: what the store asks for while this is looked at. WANTS_TOKEN:
    whether it shows what a proxy has none of. SCREEN_COMMANDS: what can be done."""

    AUTO_FOCUS = "Table"
    NAME: ClassVar[str]
    WANTS: ClassVar[frozenset[Want]] = frozenset()
    WANTS_TOKEN: ClassVar[bool] = False
    SCREEN_COMMANDS: ClassVar[tuple[ScreenCommand, ...]] = ()
    HELP: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("z", "zoom", "Zoom", show=False),
        Binding("tab", "zoom_next(1)", "Next panel"),
        Binding("shift+tab", "zoom_next(-1)", "Panel before", show=False),
        # As Textual's own screen has them, whose bindings of these keys are replaced by the two above.
        Binding("tab", "app.focus_next", "Next table", show=False),
        Binding("shift+tab", "app.focus_previous", "Table before", show=False),
        Binding("z", "zoom_end", "Back"),
        Binding("escape", "zoom_end", "Back", show=False),
    ]

    view: View | None = None
    moment: Moment

    def compose(self) -> ComposeResult:
        with Vertical(id="all"):
            yield Title()
            yield StateLine()
            yield TabLine(NUMBERS, self.NAME)
            yield TroubleList(brief=NAMES[0] != self.NAME)
            with Vertical(id="data"):
                yield from self.data()
            if self.WANTS_TOKEN:
                with Vertical(id="elsewhere"):
                    yield from self.elsewhere()
            yield KeyLine()
        yield Static(id="too-small")

    def data(self) -> Iterable[Widget]:
        """Return the widgets that show what kmsd told."""
        raise NotImplementedError

    def elsewhere(self) -> Iterable[Widget]:
        """Return the widgets that stand here at a proxy, in place of the data."""
        yield Said(id="elsewhere-said")

    def show(self, view: View, moment: Moment) -> None:
        """Show a View."""
        self.view, self.moment = view, moment
        self.query_one(Title).show(view, moment)
        self.query_one(StateLine).show(view, moment)
        self.query_one(TabLine).show(view, moment, tabs(self.NAME, view))
        self.query_one(TroubleList).show(troubles(view, moment), lost=view.lost)
        self._turn_into(proxy=bool(view.upstreams))
        for part in self.query("#data, #elsewhere"):
            part.set_class(view.lost, "-stale")
        if self.WANTS_TOKEN and view.upstreams:
            self.show_elsewhere(view, moment)
        else:
            self.show_data(view, moment)
        self.query_one(KeyLine).redraw()

    def _turn_into(self, *, proxy: bool) -> None:
        """Have the widgets of a proxy, or of a kmsd with tokens."""
        if proxy == self.has_class("-proxy"):
            return
        self.zoom(None)
        self.set_class(proxy, "-proxy")
        self.set_class(proxy and self.WANTS_TOKEN, "-elsewhere")
        if self.AUTO_FOCUS:
            # What is hidden keeps no focus.
            part = "#elsewhere" if proxy and self.WANTS_TOKEN else "#data"
            found = self.query(f"{part} Table, {part} TimelineView").results(Widget)
            self.set_focus(next(iter(found), None))

    def show_data(self, view: View, moment: Moment) -> None:
        """Show what is this screen's own of a View."""
        raise NotImplementedError

    def show_elsewhere(self, view: View, moment: Moment) -> None:
        """Show what there is of it at a proxy."""
        self.query_one("#elsewhere-said", Said).say(Content("\n").join(self.said_elsewhere(view, moment)))

    def said_elsewhere(self, view: View, moment: Moment) -> Iterable[Content]:
        """Return the lines that say where to look."""
        yield Content.styled(upstreams.elsewhere(view.upstreams), "bold")
        yield Content("Run kmstui on their machines for this; 2 shows how they are.")

    def on_resize(self, event: events.Resize) -> None:
        columns, rows = event.size
        small = columns < LEAST_WIDTH or rows < LEAST_HEIGHT
        classes = {"-too-small": small, "-wide": columns >= WIDE, "-broad": columns >= BROAD, "-high": rows >= HIGH}
        classes["-low"] = rows < LOW
        if {name for name, has in classes.items() if has} != self.classes & classes.keys():
            # Each change by itself would style everything on the screen.
            for name, has in classes.items():
                self.set_class(has, name, update=False)
            self.update_node_styles()
        if small:
            text = f"kmstui needs {LEAST_WIDTH}x{LEAST_HEIGHT}.\nThis terminal is {columns}x{rows}.\nq quits"
            self.query_one("#too-small", Static).update(Content(text))

    # One panel on the whole screen.

    zoomed: Widget | None = None
    """The panel that has all the room below the header. Asked for with every key that is drawn in the last line."""

    def _zoomable(self) -> list[Widget]:
        """Return the panels that can have all the room, plots first: they gain most."""
        if self.has_class("-elsewhere"):
            return []
        found = [*self.query("#data Plot"), *self.query("#data Panel, #data #stages, #data Listing")]
        unfit = "-of-token" if self.has_class("-proxy") else "-of-proxy"
        return [each for each in dict.fromkeys(found) if not each.has_class(unfit)]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "zoom":
            return self.zoomed is None and not self.has_class("-elsewhere")
        if action == "zoom_end":
            return self.zoomed is not None
        if action == "zoom_next":
            return self.zoomed is not None and len(self._zoomable()) > 1
        return super().check_action(action, parameters)

    def action_zoom(self) -> None:
        self.zoom(self._zoomable()[0])

    def action_zoom_next(self, by: int) -> None:
        panels, now = self._zoomable(), self.zoomed
        if now is not None:
            self.zoom(panels[(panels.index(now) + by) % len(panels)])

    def action_zoom_end(self) -> None:
        self.zoom(None)

    def zoom(self, panel: Widget | None) -> None:
        """Give all the room below the header to one panel; None: to all again."""
        data, zoomed = self.query_one("#data"), self.zoomed is not None
        self.zoomed = panel
        data.query(".-zoomed, .-around").remove_class("-zoomed", "-around")
        data.set_class(panel is not None, "-zooming")
        if panel is not None:
            panel.add_class("-zoomed")
            for each in panel.ancestors:
                if each is data:
                    break
                each.add_class("-around")
        # What is hidden has no focus, and gets none back by itself.
        if panel is None:
            self.set_focus(self._focus_before)
        else:
            self._focus_before = self._focus_before if zoomed else self.focused
            self.set_focus(next(iter(panel.query("Table, TimelineView").results(Widget)), None))
        self.call_after_refresh(self._show_again)

    _focus_before: Widget | None = None

    def _show_again(self) -> None:
        if self.view is not None:
            self.show(self.view, self.moment)

    # What can be done here.

    def _command(self, name: str) -> ScreenCommand:
        return next(command for command in self.SCREEN_COMMANDS if command.name == name)

    def why_not(self, name: str) -> str:
        """Return why a command cannot be done now; empty if it can."""
        command = self._command(name)
        if not self.offers(command, self.view):
            return "this kmsd is a proxy: its keys are with its key managers"
        if self.view is None or self.view.status.value is None:
            return "kmsd has not answered yet"
        if self.view.lost:
            return "kmsd does not answer"
        if command.changes and self.view.read_only:
            return "kmstui was started with --read-only"
        return self.refusal(name)

    def is_offered(self, name: str) -> bool:
        """Return whether a command is listed."""
        return self.offers(self._command(name), self.view)

    @classmethod
    def offers(cls, command: ScreenCommand, view: View | None) -> bool:
        """Return whether a command is for the kmsd that is looked at, at all; else it is not listed anywhere."""
        return not (view is not None and view.upstreams and (cls.WANTS_TOKEN or command.token))

    def refusal(self, name: str) -> str:
        """Return why a command cannot be done, for what this screen knows; empty if it can."""
        return ""

    def action_do(self, name: str) -> None:
        command = self._command(name)
        why = self.why_not(name)
        if why:
            self.notify(f"{command.title}: {why}", severity="warning", markup=False)
        else:
            self.begin(name)

    def begin(self, name: str) -> None:
        """Open the command's dialog, or do it."""
        raise NotImplementedError

    def go_to(self, ident: str) -> bool:
        """Move the cursor to the thing with this identity. Return whether it is here."""
        return any(listing.go_to(ident) for listing in self.query(Listing))

    @on(Panel.Clicked)
    def _clicked(self, event: Panel.Clicked) -> None:
        self.zoom(None if event.panel.has_class("-zoomed") else event.panel)

    @on(Table.Moved)
    def _moved(self, event: Table.Moved) -> None:
        """Let what is beside the table follow at once, but wait for the last row while the key is held down."""
        event.stop()
        before, self._moved_at = self._moved_at, monotonic()
        if self._following is not None:
            self._following.stop()
            self._following = None
        if self._moved_at - before > HELD:
            self._follow()
        else:
            self._following = self.set_timer(HELD, self._follow)

    _moved_at = 0.0
    _following: Timer | None = None

    def _follow(self) -> None:
        if self.view is not None:
            self.moved(self.view)
            self.query_one(KeyLine).redraw()

    def moved(self, view: View) -> None:
        """Follow the cursor to another row of a table."""


def note(view: View, reading: Reading[Any], moment: Moment) -> str:
    """Return how old data is that could not be read anew; empty while it is fresh."""
    if reading.value is None or not (view.lost or reading.error):
        return ""
    return f"as of {duration(moment.steady - reading.taken)} ago"


def tail_note(view: View, tail: Tail[Any], moment: Moment) -> str:
    """Return what there is to say about a stream beside its items."""
    if view.paused:
        return "paused"
    if view.lost and tail.items:
        return note(view, view.status, moment)
    if tail.error is not None and not view.lost:
        return f"the stream broke; {again(tail.due, moment)}"
    return f"{tail.dropped:,} more were too fast to be sent" if tail.dropped else ""


def waiting(view: View, reading: Reading[Any], none: str) -> str:
    """Return what an empty table says. none: if it is empty because there is nothing."""
    if reading.value is not None:
        return none
    if reading.error is not None and not view.lost:
        return f"cannot be read: {reading.error.message}"
    return _not_yet(view)


def tail_waiting(view: View, tail: Tail[Any], none: str) -> str:
    """Return what an empty table says, as `waiting` does, of a stream."""
    if tail.error is not None and not view.lost:
        return f"cannot be followed: {tail.error.message}"
    return none if tail.following else _not_yet(view)


def _not_yet(view: View) -> str:
    return "nothing is known yet: kmsd does not answer" if view.lost else "waiting for the first answer"
