"""Is it serving, with which key, since when, what is wrong; and all keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget

from kmsd.client import Key, escape
from kmstui import looks
from kmstui.screens.page import Page, age, waiting
from kmstui.store import Moment, View
from kmstui.text import ago, key_type, short_hash
from kmstui.widgets.columns import Column
from kmstui.widgets.detail import Detail, of_key
from kmstui.widgets.grid import Grid, Row
from kmstui.widgets.panels import HealthPanel, Panel, WriteKeyPanel

_COLUMNS = (
    Column("state"),
    Column("label", least=12),
    Column("type"),
    Column("key id", least=12),
    Column("hash"),
    Column("made", optional=True, right=True),
    Column("reason", least=24, optional=True),
)


class OverviewScreen(Page):
    NAME = "Overview"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "copy", "Copy key id")]

    def data(self) -> Iterable[Widget]:
        yield Container(WriteKeyPanel(), HealthPanel(), id="panels")
        yield Grid("Keys", _COLUMNS, id="keys")

    def show_data(self, view: View, moment: Moment) -> None:
        for panel in self.query(Panel):
            panel.show(view, moment)
        rows = [_row(key, name, moment) for name, key in _named(view.keys.value or ())]
        empty = waiting(view, view.keys, "the token holds no keys: `kmsctl keygen LABEL` makes one")
        grid = self.query_one(Grid)
        grid.set_class(view.keys.error is not None, "-stale")
        grid.show(rows, empty, age(view, view.keys, moment))

    def show_detail(self, key: str | None) -> None:
        found = self._key(key)
        self.query_one(Detail).show(of_key(found) if found is not None else ())

    def action_copy(self) -> None:
        key = self._key(self.query_one(Grid).current)
        if key is None:
            self.notify("there is no key to copy from", severity="warning", markup=False)
        elif not key.key_id:
            text = f"{escape(key.label)} has no key id: `kmsctl keys adopt` gives it one"
            self.notify(text, severity="warning", markup=False)
        else:
            self.app.copy_to_clipboard(key.key_id)
            self.notify(f"copied {escape(key.key_id)}", markup=False)

    def _key(self, name: str | None) -> Key | None:
        keys = self.view.keys.value if self.view is not None else None
        return dict(_named(keys or ())).get(name or "")


def _named(keys: Sequence[Key]) -> list[tuple[str, Key]]:
    """The keys by label, each with a name of its own: key ids may be missing, or collide."""
    ordered = sorted(keys, key=lambda key: (key.label, key.key_id))
    named: dict[str, Key] = {}
    for key in ordered:
        name, number = f"{key.key_id}\0{key.label}", 0
        while f"{name}\0{number}" in named:
            number += 1
        named[f"{name}\0{number}"] = key
    return list(named.items())


def _row(key: Key, name: str, moment: Moment) -> Row:
    look = looks.key(key.state)
    label, key_id = escape(key.label), escape(key.key_id)
    made = ago(key.created, moment.wall) if key.created is not None else ""
    cells = (
        str(look),
        label,
        key_type(key),
        key_id or "-",
        short_hash(key),
        made,
        escape(key.unusable_reason),
    )
    sought = (label, key_id, key.key_id_sha256, look.word, key_type(key), cells[-1])
    return Row(name, cells, look.colour, sought)
