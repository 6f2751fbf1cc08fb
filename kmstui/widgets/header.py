"""The lines at the top: which kmsd and which token; how it is and with which key; which screen, how fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from kmsd.client import Key, escape
from kmstui import limits, styles, traffic
from kmstui.styles import Colour
from kmstui.text import duration, plural, rate, short_hash, shorten, shorten_left, width
from kmstui.view import Moment, View
from kmstui.widgets.steady import Drawn, Said

_TOKEN_MOST = 32
"""Columns, PKCS#11's own bound for a token's label."""
_LABEL_MOST = 40


class Title(Drawn):
    """The first line: kmstui, its target, the token, what is under way. The target gives way when the line is short."""

    def draw(self) -> Content:
        view = self.view
        if view is None:
            return Content(" kmstui")
        token = _kind(view)
        which = f" ({view.targets.index(view.target) + 1} of {len(view.targets)})" if _several(view) else ""
        mode = ("  read-only" if view.read_only else "") + _paused(view, self.moment)
        work = f"  … {view.working[-1]}" if view.working else ""
        room = self.size.width - width(f" kmstui  {which}{mode}{token}") - 3
        target = shorten_left(escape(view.target), room)
        work = shorten(work, room - width(target))
        gap = " " * max(1, self.size.width - width(f" kmstui  {target}{which}{mode}{work}{token}"))
        faint = "dim" if view.lost else ""
        return Content.assemble(
            (" kmstui  ", f"bold ${Colour.ACCENT}"),
            target,
            (which, "dim"),
            (mode, f"${Colour.WARN}"),
            (work, "bold"),
            gap,
            (token, faint),
        )


class StateLine(Drawn):
    """The line with ● SERVING, the write key by label, hash and id, and the requests per second."""

    def draw(self) -> Content:
        view = self.view
        if view is None:
            return Content()
        look = styles.now(view)
        state = f" {look} "
        pace = self._pace(view)
        over = self._over(view)
        room = self.size.width - width(state) - width(pace) - width(over) - 2
        said = self._said(view, room)
        gap = " " * max(1, room - said.cell_length + 1)
        return Content.assemble(
            (state, f"bold ${look.colour}"),
            " ",
            said,
            gap,
            (over, f"bold ${Colour.WARN}"),
            (pace, "dim" if view.lost else "bold"),
        )

    def _over(self, view: View) -> str:
        """Return which limits are exceeded, with a glyph and a word, and not by a colour alone."""
        found = limits.excesses(view) if not view.lost else ()
        if not found:
            return ""
        text = found[0].text if len(found) == 1 else f"over limits: {', '.join(each.name for each in found)}"
        return f"{styles.WARN} {text}  "

    def _said(self, view: View, room: int) -> Content:
        status = view.status.value
        if status is None:
            return Content("")
        faint = "dim" if view.lost else ""
        if status.write_key is None and status.upstreams:
            return Content.styled(shorten("no key manager has named a write key yet", room), faint)
        if status.write_key is None:
            why = "is missing" if status.replaceable is None else "cannot serve"
            return Content.styled(shorten(f"no write key: {escape(status.write_label)} {why}", room), faint)
        return _key(status.write_key, room, faint)

    def _pace(self, view: View) -> str:
        number = traffic.now(view.traffic)
        return f"{rate(number)} req/s " if number is not None else ""


_SHORT = {"Config and logs": "Conf"}
_SHORTER = {**_SHORT, "Managers": "Mgrs"}
_SHORTEST = {**_SHORTER, "Overview": "Over", "Rotation": "Rota", "Inspect": "Insp", "Enrolment": "Enrol"}
_LEAST = {**_SHORTEST, "Traffic": "Traf", "Doctor": "Doct", "Enrolment": "Enro"}
_LEVELS: tuple[tuple[Mapping[str, str], str, str, int], ...] = (
    ({}, " ", " ", 7),
    (_SHORT, "", " ", 4),
    (_SHORT, "", "", 0),
    (_SHORTER, "", "", 0),
    (_SHORTEST, "", "", 0),
    (_LEAST, "", "", 0),
)
"""The ways to show the tabs, the widest first: short names, what stands before and after a key, and the columns that
are left for what stands at the end of the line."""
_BARE = len(_LEVELS)
"""The way in which only the screen that one is on has its name."""


class Tab(Static):
    """A name that leads to a screen: its key pressed or the mouse on it."""

    def __init__(self, key: str, name: str, here: bool) -> None:
        super().__init__(classes="here" if here else "")
        self.key = key
        self.title = name
        self._screen_name = name
        self._level = 0

    def show(self, title: str, level: int) -> None:
        """Show this title, in this way."""
        if (title, level) != (self.title, self._level):
            self.title, self._level = title, level
            self.refresh(layout=True)

    def render(self) -> Content:
        here = self.has_class("here")
        if self._level == _BARE and not here:
            return Content.assemble((self.key, "dim"), " ")
        short, before, after, _ = _LEVELS[min(self._level, _BARE - 1)]
        name = short.get(self.title, self.title)
        return Content.assemble(before, (self.key, "dim"), after, (name, "underline" if here else ""), " ")

    async def on_click(self) -> None:
        await self.run_action(f"app.page('{self._screen_name}')")


class TabLine(Horizontal):
    """The line of the screens' names. keys: of the screens, by their names, in their order. here: the one that this
    line is on."""

    def __init__(self, keys: Mapping[str, str], here: str) -> None:
        super().__init__()
        self._keys = keys
        self._here = here
        self._titles: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        for name, key in self._keys.items():
            yield Tab(key, name, name == self._here)
        yield Said(id="pace")

    def show(self, view: View, moment: Moment, titles: Mapping[str, str]) -> None:
        """Show the screens that there are. titles: what each is called, by its name."""
        self._titles = dict(titles)
        self._arrange()
        self.query_one("#pace", Said).say(Content(f"{'paused' if view.paused else f'{view.interval:g} s'} "))

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        if not self._titles:
            return
        level = _level(tuple(self._titles.values()), self.app.size.width)
        for name, tab in zip(self._keys, self.query(Tab), strict=True):
            tab.display = name in self._titles
            tab.show(self._titles.get(name, name), level)


def _level(titles: Sequence[str], columns: int) -> int:
    """Return the widest way to show these titles that fits."""
    for at, (short, before, after, beside) in enumerate(_LEVELS):
        used = sum(len(short.get(each, each)) + len(before) + len(after) + 2 for each in titles)
        if used + beside <= columns:
            return at
    return _BARE


def _kind(view: View) -> str:
    """Return which token it has, or that it is a proxy."""
    status = view.status.value
    if status is None:
        return ""
    if status.upstreams:
        return f"proxy of {plural(len(status.upstreams), 'key manager')} "
    label = status.token.label
    return f"token {shorten(escape(label), _TOKEN_MOST)} " if label else ""


def _several(view: View) -> bool:
    return len(view.targets) > 1


def _key(key: Key, room: int, faint: str) -> Content:
    label = shorten(escape(key.label), _LABEL_MOST) or "write key"
    digest = short_hash(key.key_id_sha256)
    left = room - width(label) - width(digest) - 4
    key_id = shorten(escape(key.key_id), left) if left >= 8 else ""
    return Content.assemble(
        (shorten(label, room), faint or "bold"), (f"  {digest}", faint), (f"  {key_id}" if key_id else "", "dim")
    )


def _paused(view: View, moment: Moment) -> str:
    """Return how old everything is that shows, if it grows old."""
    if view.status.value is None or view.lost:
        return "  paused" if view.paused else ""
    age = moment.steady - view.status.taken
    if view.paused:
        return f"  paused, read {duration(age)} ago"
    return f"  read {duration(age)} ago" if age >= max(2.0, 2 * view.interval) else ""
