"""The two lines at the top: which kmsd, which token, how it is; which screen, how fresh."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kmsd.client import escape
from kmstui import looks
from kmstui.store import Moment, View
from kmstui.text import duration, shorten, shorten_left

_TOKEN_MOST = 32
"""Columns, PKCS#11's own bound for a token's label."""


class Title(Widget):
    """The target gives way when the line is short: its end is kept."""

    view: View | None = None

    def show(self, view: View, moment: Moment) -> None:
        self.view = view
        self.refresh()

    def render(self) -> Content:
        view = self.view
        if view is None:
            return Content(" kmstui")
        look = looks.now(view)
        label = view.status.value.token.label if view.status.value is not None else ""
        token = f"   token {shorten(escape(label), _TOKEN_MOST)}" if label else ""
        name, state = " kmstui  ", f"{look} "
        room = self.size.width - cell_len(name + token + state) - 2
        target = shorten_left(escape(view.target), room)
        gap = " " * max(1, self.size.width - cell_len(name + target + token + state))
        faint = "dim" if view.lost else ""
        return Content.assemble((name, "bold"), (target, ""), (token, faint), gap, (state, f"bold ${look.colour}"))


class Tab(Static):
    """Leads to a screen: its key pressed or the mouse on it."""

    def __init__(self, key: str, name: str, here: bool) -> None:
        super().__init__(Content(f" {key} {name} "), classes="here" if here else "")
        self._screen_name = name

    async def on_click(self) -> None:
        await self.run_action(f"app.page('{self._screen_name.lower()}')")


class TabLine(Horizontal):
    """names: of the screens, in the order of their keys. here: the one that this line is on."""

    def __init__(self, names: tuple[str, ...], here: str) -> None:
        super().__init__()
        self._screen_names = names
        self._here = here

    def compose(self) -> ComposeResult:
        for number, name in enumerate(self._screen_names, 1):
            yield Tab(str(number), name, name == self._here)
        yield Static(id="pace")

    def show(self, view: View, moment: Moment) -> None:
        self.query_one("#pace", Static).update(Content(f"{_pace(view, moment)} "))


def _pace(view: View, moment: Moment) -> str:
    pace = "PAUSED" if view.paused else f"every {view.interval:g} s"
    if view.status.value is None:
        return pace
    age = moment.steady - view.status.taken
    return f"{pace}, read {duration(age)} ago" if view.paused or age >= 1 else pace
