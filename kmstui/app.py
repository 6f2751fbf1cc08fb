"""The program: its screens and keys, and the store that feeds them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Literal

from rich.console import RenderableType
from textual import events, on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.driver import Driver
from textual.screen import Screen
from textual.theme import Theme
from textual.timer import Timer

from kmsd.client import Key, escape
from kmsd.client.clientconfig import Thresholds
from kmstui import actions, arguments, gc_scheduling, prerender, remember, terminal, themes
from kmstui.action import Done
from kmstui.arguments import INTERVAL
from kmstui.dialogs.save import SaveDialog
from kmstui.dialogs.targets import TargetDialog
from kmstui.leads import Lead, lead
from kmstui.messages import Act, Changed, Choose, Finished, LookInto, MechanismsWanted, Open, ShowRequests
from kmstui.palette import Commands, Places
from kmstui.screens.audit import AuditScreen
from kmstui.screens.config import ConfigScreen
from kmstui.screens.doctor import DoctorScreen
from kmstui.screens.fleet import FleetScreen
from kmstui.screens.help import HelpScreen
from kmstui.screens.inspect import InspectScreen
from kmstui.screens.keys import KeysScreen, ident
from kmstui.screens.overview import OverviewScreen
from kmstui.screens.page import NUMBERS, Page
from kmstui.screens.rotation import RotationScreen
from kmstui.screens.tokens import TokensScreen
from kmstui.screens.traffic import TrafficScreen
from kmstui.store import Store
from kmstui.textual_compat import ParsedOnce
from kmstui.typeahead import Passed, Typeahead
from kmstui.view import Moment, View
from kmstui.widgets.listing import Listing

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
)


DRAW_PAUSE = 0.1
"""Seconds between two times that a new View is drawn, at the least."""
SWITCH_PAUSE = 0.001
"""Seconds for which nothing is painted after a switch to another screen, which shows what there is at once: Textual's
own 50 ms are half of what a key may take to show."""

MADE_WITHIN = 3.0
"""Seconds that leaving waits for screens that are being made."""
SWITCH_INTERVAL = 0.001
"""Seconds that one thread computes while another one waits."""


class Kmstui(App[None]):
    """targets: each as `kmsd.client.connect`; none: the default. interval: seconds between reads. memory: file with
    what is remembered; None: nothing is. clock: tells the moment that ages are counted from. alone: the
    process does nothing else, and what takes long is done while nobody types. beside: more targets, for the fleet.
    thresholds: what the header warns of. driver: None: Textual's own."""

    TITLE = "kmstui"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    HELP = "1 to 9 and 0 lead to the screens, and so does the mouse on their names."
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
        super().__init__(driver_class=driver)
        self.stylesheet = ParsedOnce(self.get_css_variables())
        for theme in themes.THEMES.values():
            self.register_theme(theme)
        self._memory_file = memory
        self.memory = remember.load(memory) if memory is not None else remember.Remembered()
        self.clock = clock
        self._restored: set[str] = set()
        self._typeahead = Typeahead(self, super().on_event)
        self._typed = 0.0
        self._alone = alone
        self._making = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None
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
            self.run_worker(prerender.make(self, self.MODES, self._quiet, self._making), name="ahead")
            self.run_worker(gc_scheduling.collect(self._quiet), name="garbage")

    def _quiet(self) -> float:
        """Seconds since the last key."""
        return monotonic() - self._typed

    def exit(self, result: None = None, return_code: int = 0, message: RenderableType | None = None) -> None:
        """Leave once each screen is whole. From Textual's exit on no widget comes to be: a screen that is half made
        ends with the traceback of what misses its parts, or is waited for until Textual gives up on it."""
        if self._leaving is None:
            leave = partial(super().exit, result, return_code, message)
            self._leaving = asyncio.get_running_loop().create_task(self._leave(leave))

    async def _leave(self, leave: Callable[[], None]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MADE_WITHIN):
                await self._making.acquire()  # and keep it: no other screen is begun
                while not all(screen.is_mounted for screen in self.screen_stack):  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(0.01)
        leave()

    def on_unmount(self) -> None:
        if self._memory_file is not None:
            remember.save(self.memory, self._memory_file)

    # The store tells, the screen on top shows.

    def _changed(self, view: View) -> None:
        if self.is_running:
            self.post_message(Changed())

    def on_changed(self) -> None:
        """At most ten times a second: more nobody sees."""
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
            if isinstance(screen, Page) and screen.is_mounted:
                screen.show(self.store.view, self.clock())

    # What Textual does slowly.

    def delay_update(self, delay: float = SWITCH_PAUSE) -> None:
        super().delay_update(min(delay, SWITCH_PAUSE))

    def get_theme(self, theme_name: str) -> Theme | None:
        # Asked for with every piece of the screen that is painted.
        return themes.THEMES.get(theme_name) or super().get_theme(theme_name)

    # Keys in their turn.

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            self._typed = monotonic()
            await self._typeahead.take(event)
        else:
            await super().on_event(event)

    def on_passed(self, message: Passed) -> None:
        self._typeahead.passed(message)

    # What widgets ask for.

    def on_act(self, message: Act) -> None:
        self.store.act(message.action, message.reply or self._said)

    def on_finished(self, message: Finished) -> None:
        self._said(message.done)

    def _said(self, done: Done) -> None:
        if done.outcome is not None:
            severity: Literal["error", "information"] = "error" if done.outcome.bad else "information"
            self.notify(done.outcome.message, severity=severity, markup=False, timeout=8)
        elif done.error is not None:
            hint = f"\n→ {escape(done.error.hint)}" if done.error.hint else ""
            again = "\ntrying again may help" if done.error.retryable else ""
            self.notify(
                f"{escape(done.error.message)}{hint}{again}",
                title=f"{done.action.name} failed",
                severity="error",
                markup=False,
                timeout=12,
            )

    async def on_open(self, message: Open) -> None:
        self.store.switch(message.target)
        await self.action_page(self.DEFAULT_MODE)

    async def on_look_into(self, message: LookInto) -> None:
        found = lead(message.trouble, self.store.view)
        if found.requests is None:
            await self._follow(found)
        else:
            self.store.act(actions.failures(found.requests), partial(self._looked, found))

    def _looked(self, found: Lead, done: Done) -> None:
        """Requests come first, where any failed of it."""
        if done.outcome is not None and done.outcome.requests is not None:
            self.post_message(ShowRequests(done.outcome.requests))
        else:
            self.call_later(self._follow, found)

    async def _follow(self, found: Lead) -> None:
        if found.key is not None:
            await self.jump_to_key(found.key)
        elif found.setting:
            await self.jump_to(found.page, found.setting)
        else:
            await self.action_page(found.page)

    async def on_show_requests(self, message: ShowRequests) -> None:
        await self.action_page(TrafficScreen.NAME)
        page = self.page
        if isinstance(page, TrafficScreen):
            page.choose(message.wanted)

    def on_choose(self, message: Choose) -> None:
        self.store.choose(message.wanted)

    def on_mechanisms_wanted(self, message: MechanismsWanted) -> None:
        self.store.want_mechanisms(message.token)

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
        """To a thing on a screen; its table may have to be read first."""
        await self.action_page(page)
        found = self.page
        if found is not None:
            found.call_after_refresh(found.go_to, ident)

    async def jump_to_key(self, key: Key) -> None:
        await self.jump_to(KeysScreen.NAME, ident(key))

    # What the keys do.

    @property
    def page(self) -> Page | None:
        """The screen with data that is on top, or under a dialog."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)

    async def action_page(self, name: str) -> None:
        if name not in self.MODES or self._leaving is not None:
            return
        async with self._making:
            await self.switch_mode(name)
        self.memory = replace(self.memory, screen=name)
        page = self.page
        if page is not None:
            for listing in page.query(Listing):
                self._restore(listing)
            self.store.want(page.WANTS)
        self._draw()

    def _restore(self, listing: Listing[Any]) -> None:
        """A table that is seen for the first time gets the order and the filter it had when last seen."""
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
    """Runs kmstui with these arguments, the process' own by default. Returns the exit code: 0, 1 failed, 2 usage,
    129 its terminal is gone, 143 SIGTERM."""
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
