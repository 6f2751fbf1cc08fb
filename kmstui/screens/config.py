"""The configuration in force, each value with where it came from; and the log level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Config, Setting, escape
from kmstui.commands import ScreenCommand
from kmstui.dialogs.level import LevelDialog
from kmstui.screens.page import Page, note, waiting
from kmstui.styles import WARN, Colour
from kmstui.text import hang
from kmstui.view import Moment, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.steady import Said

_LEVEL = "log.level"


def _set(setting: Setting) -> bool:
    return setting.origin != "default"


def _value(setting: Setting) -> str:
    return setting.value or '""'


SETTINGS = ItemKind[Setting](
    "Settings",
    (
        Column("name", lambda each, _: each.name, least=24, order=lambda each: each.name),
        Column("value", lambda each, _: _value(each), least=20, order=lambda each: each.value),
        Column(
            "from",
            lambda each, _: each.origin,
            least=12,
            colour=lambda each: Colour.ACCENT if _set(each) else Colour.PLAIN,
            order=lambda each: (each.origin == "default", each.origin),
        ),
        Column("a reload changes it", lambda each, _: "yes" if each.reloadable else "", optional=True),
    ),
    lambda each: each.name,
    lambda each: (each.name, escape(each.value), each.origin),
    lambda each: f"{each.name} = {each.value}",
    "setting",
    command=(
        "config",
        "view",
    ),
)


class ConfigScreen(Page):
    """The screen of the configuration and the log."""

    NAME = "Config and logs"
    WANTS = frozenset({Want.CONFIG})
    HELP = (
        "Shows the configuration in force. A value comes from the command line, else from the environment, else from "
        "the file, else it is built in. Secrets are never shown. The log level can be changed until kmsd restarts."
    )
    SCREEN_COMMANDS = (ScreenCommand("level", "L", "Log level", "Log more or less, until kmsd restarts."),)
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        yield Said(id="config-head")
        with Container(id="beside"):
            yield Listing(SETTINGS, id="settings")
            yield Detail()

    def show_data(self, view: View, moment: Moment) -> None:
        config = view.config.value
        width = self.size.width - 2
        self.query_one("#config-head", Said).say(Content("\n").join(_head(config, view, width)))
        settings = config.settings if config is not None else ()
        empty = waiting(view, view.config, "kmsd tells of no settings")
        self._listing.show(settings, moment, empty=empty, note=note(view, view.config, moment))
        self.moved(view)

    def moved(self, view: View) -> None:
        setting = self._listing.current
        facts = tuple(setting_facts(setting)) if setting is not None else ()
        self.query_one(Detail).show(setting.name if setting is not None else "", facts)

    @property
    def _listing(self) -> Listing[Setting]:
        found: Listing[Setting] = self.query_one("#settings", Listing)
        return found

    def begin(self, name: str) -> None:
        if self.view is not None:
            self.app.push_screen(LevelDialog(self.view.target, level(self.view)))


def level(view: View) -> str:
    """Return the log level as far as it is known here: what was set from here, else what is configured."""
    settings = view.config.value.settings if view.config.value is not None else ()
    configured = next((setting.value for setting in settings if setting.name == _LEVEL), "")
    return view.level or configured.strip('"')


def _head(config: Config | None, view: View, width: int) -> Iterator[Content]:
    if config is None:
        yield Content("")
        return
    file = escape(config.file) or "no file was read"
    now = level(view)
    changed = "  (changed here)" if view.level else ""
    yield Content.assemble(
        ("file ", "dim"), file, ("   log level ", "dim"), (escape(now) or "-", "bold"), (changed, "dim")
    )
    for warning in config.warnings:
        yield Content.assemble((f"{WARN} ", f"${Colour.WARN}"), hang(escape(warning), width, 2))


def setting_facts(setting: Setting) -> Iterator[Fact]:
    """Return a setting as lines of names and values."""
    yield Fact("value", escape(_value(setting)))
    yield Fact("from", escape(setting.origin))
    section, _, name = setting.name.partition(".")
    if name:
        yield Fact("file", escape(f"[{section}]  {name} = …"))
        yield Fact("env", f"KMSD_{section}__{name}".upper())
    yield Fact("changes", "with a reload (SIGHUP)" if setting.reloadable else "with a restart")
    if setting.secret:
        yield Fact("", "a secret: its value is never told")
