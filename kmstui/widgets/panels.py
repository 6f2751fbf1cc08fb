"""The two panels of the overview: the key that writes, and the health of what serves it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Key, Status, escape
from kmstui.looks import BAD, GOOD, WARN, Colour
from kmstui.store import Moment, View
from kmstui.text import ago, duration, key_type, short_hash, shorten, shorten_left

_COLOURS = {GOOD: Colour.GOOD, WARN: Colour.WARN, BAD: Colour.BAD}
_WAITING = Content.styled("waiting for the first answer", "dim")


class Panel(Widget):
    """Lines made from the status, cut to the panel's width. Renders anew when shown or resized."""

    view: View | None = None
    moment: Moment

    def show(self, view: View, moment: Moment) -> None:
        self.view, self.moment = view, moment
        self.refresh(layout=True)

    def render(self) -> Content:
        status = self.view.status.value if self.view is not None else None
        if status is None:
            return _WAITING
        return Content("\n").join(self.lines(status))

    def lines(self, status: Status) -> Iterator[Content]:
        raise NotImplementedError


class WriteKeyPanel(Panel):
    def on_mount(self) -> None:
        self.border_title = "Write key"

    def lines(self, status: Status) -> Iterator[Content]:
        width = self.content_size.width
        key = status.write_key
        if key is None:
            yield Content.assemble((f"{BAD} ", f"${Colour.BAD}"), ("none", "bold"))
            yield Content(shorten(f"label {escape(status.write_label)}", width))
            yield Content(shorten(_count(status), width))
            return
        yield Content.styled(shorten(escape(key.label), width), "bold")
        for name, value in self._fields(status, key):
            yield Content.assemble((f"{name:<5}", "dim"), shorten(value, width - 5))

    def _fields(self, status: Status, key: Key) -> Iterator[tuple[str, str]]:
        yield "id", escape(key.key_id)
        yield "hash", f"sha256:{short_hash(key)}"
        yield "type", f"{key_type(key)}, writes {escape(status.write_format)}"
        when = f" ({key.created:%Y-%m-%d})" if key.created is not None else ""
        yield "made", f"{ago(key.created, self.moment.wall)}{when}"
        yield "", f"one of {_count(status)}"


class HealthPanel(Panel):
    def on_mount(self) -> None:
        self.border_title = "Health"

    def lines(self, status: Status) -> Iterator[Content]:
        rows = list(self._rows(status))
        wide = max(cell_len(name) for _, name, _ in rows)
        room = self.content_size.width - wide - 4
        for glyph, name, value in rows:
            cut = shorten_left if value.startswith("/") else shorten
            yield Content.assemble((f"{glyph} ", f"${_COLOURS[glyph]}"), f"{name:<{wide}}  ", (cut(value, room), ""))

    def _rows(self, status: Status) -> Iterator[tuple[str, str, str]]:
        probe, sessions, token = status.probe, status.sessions, status.token
        if probe.last_success is None:
            yield BAD, "round trip", "none has succeeded yet"
        else:
            age = ago(probe.last_success, self.moment.wall)
            yield GOOD if status.healthy else BAD, "round trip", f"{probe.round_trip_ms:.1f} ms, {age}"
        glyph = WARN if sessions.stuck or sessions.open < sessions.configured else GOOD
        queued = f", {sessions.queued} queued" if sessions.queued else ""
        count = f"{sessions.open} of {sessions.configured}, {sessions.stuck} stuck{queued}"
        yield glyph if sessions.open else BAD, "sessions", count
        yield GOOD if token.up else BAD, "token", f"{'up' if token.up else 'away'}, slot {token.slot_id}"
        up = (self.moment.wall - status.started).total_seconds() if status.started else None
        yield GOOD, f"kmsd {escape(status.version)}", f"up {duration(up)}" if up is not None else ""
        for listener in status.listeners:
            yield GOOD, escape(" ".join(listener.apis)), escape(listener.socket)


def _count(status: Status) -> str:
    return f"{status.keys} key{'' if status.keys == 1 else 's'} on the token"
