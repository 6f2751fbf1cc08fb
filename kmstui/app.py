"""The program: its command line, its keys, and the store that feeds its screens."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from kmsd.client import InvalidRequest, __version__, default_target, parse_target
from kmstui.screens.help import HelpScreen
from kmstui.screens.overview import OverviewScreen
from kmstui.screens.page import Page
from kmstui.screens.slots import SlotsScreen
from kmstui.store import Moment, Store, View

INTERVAL = 2.0
"""Seconds between reads unless told otherwise."""


class Kmstui(App[None]):
    """target: as `kmsd.client.connect`. interval: seconds between reads."""

    TITLE = "kmstui"
    CSS_PATH = "app.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "overview": OverviewScreen,
        "slots": SlotsScreen,
    }
    DEFAULT_MODE = "overview"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "page('overview')", "Overview", show=False),
        Binding("2", "page('slots')", "Slots", show=False),
        Binding("r", "refresh", "Refresh"),
        Binding("p", "pause", "Pause"),
        Binding("plus", "slower", "Slower", key_display="+"),
        Binding("minus", "faster", "Faster", key_display="-"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, target: str | None = None, interval: float = INTERVAL) -> None:
        super().__init__()
        self.store = Store(target, interval, self._show)

    def on_mount(self) -> None:
        # Ages and countdowns go on while nothing else happens.
        self.set_interval(1.0, lambda: self._show(self.store.view))
        self.run_worker(self.store.run(), name="store", exclusive=True)

    async def action_page(self, name: str) -> None:
        await self.switch_mode(name)
        self.store.want_slots(name == "slots")
        self._show(self.store.view)

    def action_refresh(self) -> None:
        self.store.refresh()

    def action_pause(self) -> None:
        self.store.toggle_pause()

    def action_slower(self) -> None:
        self.store.slower()

    def action_faster(self) -> None:
        self.store.faster()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def _show(self, view: View) -> None:
        if not self.is_running:
            return  # the screens are being taken apart
        for screen in self.screen_stack:
            if isinstance(screen, Page) and screen.is_mounted:
                screen.show(view, Moment.now())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _complain(message, "`kmstui --help` shows how it is used")
        raise SystemExit(2)


def _complain(message: str, hint: str) -> None:
    sys.stderr.write(f"kmstui: error: {message}\nhint: {hint}\n")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.2 to 3600")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kmstui",
        description="Watch a running kmsd: its state, its keys, its token. Changes nothing.",
        epilog="Inside, ? shows the keys.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--target",
        metavar="SOCKET",
        default=os.environ.get("KMSCTL_TARGET") or None,
        help="admin socket of kmsd: unix:///path or /path (also KMSCTL_TARGET; "
        f"default: {default_target().replace('%', '%%')})",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=INTERVAL,
        help=f"between reads (default: {INTERVAL:g})",
    )
    parser.add_argument("--version", action="version", version=f"kmstui {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs kmstui with these arguments, the process' own by default; the exit code: 0, 1 failed, 2 usage."""
    arguments = _parser().parse_args(argv)
    if arguments.target is not None:
        try:
            parse_target(arguments.target)
        except InvalidRequest as error:
            _complain(error.message, error.hint)
            return 2
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        _complain("kmstui needs a terminal", "`kmsctl status` tells the same without one")
        return 2
    app = Kmstui(arguments.target, arguments.interval)
    app.run()
    return app.return_code or 0
