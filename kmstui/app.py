"""The program: its screens and keys, and the store that feeds them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.driver import Driver
from textual.screen import Screen
from textual.timer import Timer

from kmsd.client import Key
from kmsd.client.clientconfig import Thresholds
from kmstui import arguments, gc_scheduling, prerender, remember, terminal, themes
from kmstui.arguments import INTERVAL
from kmstui.dialogs.save import SaveDialog
from kmstui.dialogs.targets import TargetDialog
from kmstui.dialogs.tenant import TenantDialog
from kmstui.messages import Changed
from kmstui.palette import Commands, Places
from kmstui.screens.audit import AuditScreen
from kmstui.screens.config import ConfigScreen
from kmstui.screens.doctor import DoctorScreen
from kmstui.screens.enrolment import EnrolmentScreen
from kmstui.screens.fleet import FleetScreen
from kmstui.screens.help import HelpScreen
from kmstui.screens.inspect import InspectScreen
from kmstui.screens.keys import KeysScreen, ident
from kmstui.screens.names import NUMBERS, absent
from kmstui.screens.overview import OverviewScreen
from kmstui.screens.page import Page
from kmstui.screens.rotation import RotationScreen
from kmstui.screens.tenants import TenantsScreen
from kmstui.screens.tokens import TokensScreen
from kmstui.screens.traffic import TrafficScreen
from kmstui.store import Store
from kmstui.view import Moment, View
from kmstui.widgets.listing import Listing
from kmstui.wishes import Wishes

PAGES: tuple[type[Page], ...] = (
    OverviewScreen,
    TokensScreen,
    KeysScreen,
    TrafficScreen,
    RotationScreen,
    AuditScreen,
    ConfigScreen,
    FleetScreen,
    DoctorScreen,
    InspectScreen,
    TenantsScreen,
    EnrolmentScreen,
)


DRAW_PAUSE = 0.1
"""Seconds between two times that a new View is drawn, at the least."""
SWITCH_INTERVAL = 0.001
"""Seconds that one thread computes while another one waits."""


class Kmstui(Wishes):
    """The program. targets: each as `kmsd.client.connect`; none: the default. interval: seconds between reads. memory:
    file with what is remembered; None: nothing is. clock: tells the moment that ages are counted from. alone: the
    process does nothing else, and what takes long is done while nobody types. beside: more targets, for the fleet.
    thresholds: what the header warns of. driver: None: Textual's own."""

    TITLE = "kmstui"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    HELP = "1 to 9, 0, m and E lead to the screens, and so does the mouse on their names."
    COMMANDS = {Commands}  # noqa: RUF012 - as Textual has it
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {page.NAME: page for page in PAGES}
    DEFAULT_MODE = PAGES[0].NAME
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(number, f"page('{name}')", show=False) for name, number in NUMBERS.items()),
        Binding("r", "refresh", "Read now"),
        Binding("p", "pause", "Pause"),
        Binding("plus", "slower", "Read less often", key_display="+", show=False),
        Binding("minus", "faster", "Read more often", key_display="-", show=False),
        Binding("w", "span", "Plot 1, 5, 15 min", show=False),
        Binding("t", "target", "Target"),
        Binding("colon", "jump", "Jump", key_display=":"),
        Binding("ctrl+t", "theme", "Next theme", show=False),
        Binding("ctrl+p", "command_palette", "Palette", key_display="^p"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        targets: Sequence[str] = (),
        interval: float = INTERVAL,
        *,
        read_only: bool = False,
        memory: Path | None = None,
        clock: Callable[[], Moment] = Moment.now,
        alone: bool = False,
        driver: type[Driver] | None = None,
        beside: Sequence[str] = (),
        thresholds: Thresholds = Thresholds(),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__(driver)
        self._memory_file = memory
        self.memory = remember.load(memory) if memory is not None else remember.Remembered()
        self.clock = clock
        self._restored: set[str] = set()
        self._alone = alone
        self._drawing: Timer | None = None
        self._drawn = 0.0
        self.theme = self.memory.theme if self.memory.theme in themes.THEMES else themes.DARK.name
        self.store = Store(targets, interval, self._changed, read_only=read_only, beside=beside, limits=thresholds)

    async def on_mount(self) -> None:
        await self.action_page(self.memory.screen if self.memory.screen in self.MODES else self.DEFAULT_MODE)
        self.begin()

    def begin(self) -> None:
        """Follow kmsd from now on."""
        # Ages and countdowns go on while nothing else happens.
        self.set_interval(1.0, self._draw)
        self.run_worker(self.store.run(), name="store")
        if self._alone:
            self.run_worker(prerender.make(self, self.MODES, self.quiet, self.making), name="ahead")
            self.run_worker(gc_scheduling.collect(self.quiet), name="garbage")

    def on_unmount(self) -> None:
        if self._memory_file is not None:
            remember.save(self.memory, self._memory_file)

    # The store tells, the screen on top shows.

    def _changed(self, view: View) -> None:
        if self.is_running:
            self.post_message(Changed())

    def on_changed(self) -> None:
        """Draw at most ten times a second: more nobody sees."""
        if self._drawing is None:
            self._drawing = self.set_timer(max(0.001, self._drawn + DRAW_PAUSE - monotonic()), self._draw)

    def _draw(self) -> None:
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None
        self._drawn = monotonic()
        if not self.is_running:
            return  # the screens are being taken apart
        for screen in self.screen_stack:
            if isinstance(screen, (Page, TenantDialog)) and screen.is_mounted:
                screen.show(self.store.view, self.clock())

    @on(Listing.Changed)
    def _remember_table(self, event: Listing.Changed) -> None:
        name, listing = event.listing.id, event.listing
        if name is not None:
            sort, falling = listing.order or ("", False)
            table = remember.RememberedTable(listing.filter_text, sort, falling)
            self.memory = replace(self.memory, tables={**self.memory.tables, name: table})

    @on(Listing.Save)
    def _save(self, event: Listing.Save) -> None:
        self.push_screen(SaveDialog(self.store.view.target, event.kind, event.choices, event.moment))

    # Ways through it.

    @property
    def pages(self) -> tuple[type[Page], ...]:
        return PAGES

    async def jump_to(self, page: str, ident: str) -> None:
        """Go to a thing on a screen; its table may have to be read first."""
        await self.action_page(page)
        found = self.page
        if found is not None:
            found.call_after_refresh(found.go_to, ident)

    async def jump_to_key(self, key: Key) -> None:
        await self.jump_to(KeysScreen.NAME, ident(key))

    # What the keys do.

    async def action_page(self, name: str) -> None:
        if name not in self.MODES or self.leaving:
            return
        why = absent(name, self.store.view)
        if why:
            self.notify(f"{name}: {why}", severity="warning", markup=False)
            return
        async with self.making:
            await self.switch_mode(name)
        self.memory = replace(self.memory, screen=name)
        page = self.page
        if page is not None:
            for listing in page.query(Listing):
                self._restore(listing)
            self.store.want(page.WANTS)
        self._draw()

    def _restore(self, listing: Listing[Any]) -> None:
        """Give a table that is seen for the first time the order and the filter that it had when last seen."""
        table = self.memory.tables.get(listing.id or "")
        if listing.id in self._restored or table is None:
            return
        listing.restore(table.filter, (table.sort, table.falling) if table.sort else None)
        self._restored.add(listing.id or "")

    def action_refresh(self) -> None:
        self.store.refresh()

    def action_pause(self) -> None:
        self.store.toggle_pause()

    def action_slower(self) -> None:
        self.store.slower()

    def action_faster(self) -> None:
        self.store.faster()

    def action_span(self) -> None:
        self.store.next_span()

    def action_theme(self) -> None:
        self.set_theme(themes.following(self.theme))

    def set_theme(self, name: str) -> None:
        """Set the theme, and remember it."""
        self.theme = name
        self.memory = replace(self.memory, theme=name)

    def action_target(self) -> None:
        if len(self.store.view.targets) < 2:
            text = "there is one target; name others with --target, or in the configuration file"
            self.notify(text, severity="warning", markup=False)
            return
        self.push_screen(TargetDialog(self.store.view), self._switch)

    def _switch(self, target: str | None) -> None:
        if target is not None:
            self.store.switch(target)

    def action_jump(self) -> None:
        self.push_screen(CommandPalette([Places], placeholder="Jump to a screen, a key, a token, a setting…"))

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))


def main(argv: Sequence[str] | None = None) -> int:
    """Run kmstui with these arguments, the process' own by default. Return the exit code: 0, 1 failed, 2 usage, 129
    its terminal is gone, 143 SIGTERM."""
    try:
        wanted = arguments.parse(argv)
        # Textual's web server talks to it through pipes.
        served = bool(os.environ.get("TEXTUAL_DRIVER"))
        if not served and not terminal.there():
            arguments.refuse("kmstui needs a terminal", "`kmsctl status` tells the same without one")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    # A reader that works through ten thousand keys gives way to the keyboard sooner.
    sys.setswitchinterval(SWITCH_INTERVAL)
    app = Kmstui(
        wanted.targets,
        wanted.interval,
        read_only=wanted.read_only,
        memory=remember.place(),
        alone=True,
        driver=None if served else terminal.Terminal,
        beside=wanted.beside,
        thresholds=wanted.thresholds,
    )
    app.run()
    if app.return_code == terminal.HUNG_UP and sys.stderr is not None:
        with contextlib.suppress(OSError):  # it may have been the terminal
            sys.stderr.write("kmstui: error: its terminal is gone\n")
    return app.return_code or 0
