"""The key managers of a proxy: a table of them, a panel, and all that is to be said of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kmsd.client import Upstream, escape
from kmstui import upstreams
from kmstui.styles import Colour
from kmstui.text import absolute, age, ago, compact, milliseconds, short_hash
from kmstui.view import Moment, View
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Fact
from kmstui.widgets.ledger import Cell, Ledger, LedgerHead

UPSTREAMS = ItemKind[Upstream](
    "Key managers",
    (
        Column(
            "state",
            lambda each, _: str(upstreams.look(each)),
            fixed=8,
            colour=lambda each: upstreams.look(each).colour,
            order=lambda each: (each.up, not each.last),
        ),
        Column("address", lambda each, _: each.address, least=16, order=lambda each: each.address),
        Column("since", lambda each, moment: age(each.since, moment.wall), fixed=6, right=True),
        Column("trip", lambda each, _: milliseconds(each.round_trip_ms), fixed=7, right=True),
        Column("answered", lambda each, moment: age(each.answered, moment.wall), fixed=8, right=True),
        Column(
            "asked",
            lambda each, _: compact(each.asked),
            fixed=6,
            right=True,
            optional=True,
            order=lambda each: each.asked,
            falling=True,
        ),
        Column(
            "failed",
            lambda each, _: compact(each.failed) if each.failed else "-",
            fixed=6,
            right=True,
            order=lambda each: each.failed,
            falling=True,
        ),
        Column("key", lambda each, _: short_hash(each.key_id_sha256), fixed=8),
        Column("why", lambda each, _: upstreams.why(each), least=40, optional=True),
    ),
    lambda each: each.address,
    lambda each: (escape(each.address), upstreams.look(each).word, each.key_id_sha256, escape(upstreams.why(each))),
    lambda each: each.address,
    "address",
    command=("status",),
)


def upstream_facts(each: Upstream, moment: Moment) -> Iterator[Fact]:
    """Return a key manager as lines of names and values."""
    look, why = upstreams.look(each), upstreams.why(each)
    said = "it answered the last Status" if each.last else "calls go to it" if each.up else "calls go to others first"
    yield Fact("now", f"{look}: {said}", look.colour)
    if each.since is not None:
        yield Fact("since", f"{absolute(each.since)}, {age(each.since, moment.wall)}")
    if why:
        yield Fact("why", escape(why), look.colour)
        if each.hint:
            yield Fact("", f"→ {escape(each.hint)}")
    answered = f"{ago(each.answered, moment.wall)}, in {milliseconds(each.round_trip_ms)}"
    yield Fact("answered", answered if each.answered is not None else "never")
    yield Fact("says", escape(each.healthz) or "nothing yet")
    answers = f"{each.failed:,} of them not answered" if each.failed else "all answered"
    yield Fact("asked", f"{each.asked:,} calls, {answers}, {each.in_flight} under way")
    if each.key_id:
        yield Fact("key id", escape(each.key_id))
        yield Fact("sha256", escape(each.key_id_sha256))


class KeyManagersPanel(Ledger):
    """A panel of the key managers of a proxy, as high as they are many."""

    MOST = 6
    """Key managers for which there is room; of more, those that are away come first."""
    heads = (
        LedgerHead("state"),
        LedgerHead("address", least=14),
        LedgerHead("since", right=True),
        LedgerHead("trip", right=True),
        LedgerHead("answered", right=True),
        LedgerHead("failed", right=True),
        LedgerHead("key"),
        LedgerHead("why", least=24, optional=True),
    )

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        found = view.upstreams
        if len(found) > self.MOST:
            found = tuple(sorted(found, key=lambda each: each.up))
        return [_cells(each, moment) for each in found]

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        return view.status.value, view.lost, int(moment.wall.timestamp())

    def show(self, view: View, moment: Moment) -> None:
        height = min(len(view.upstreams), self.MOST) + 3
        if self.styles.height is None or self.styles.height.value != height:
            self.styles.height = height
        self._title = f"Key managers ({upstreams.tally(view.upstreams)})"
        super().show(view, moment)


def _cells(each: Upstream, moment: Moment) -> tuple[Cell, ...]:
    look = upstreams.look(each)
    return (
        Cell(str(look), look.colour),
        Cell(escape(each.address)),
        Cell(age(each.since, moment.wall)),
        Cell(milliseconds(each.round_trip_ms)),
        Cell(age(each.answered, moment.wall)),
        Cell(f"{compact(each.failed)} of {compact(each.asked)}", Colour.WARN if each.failed else Colour.PLAIN),
        Cell(short_hash(each.key_id_sha256)),
        Cell(escape(upstreams.why(each))),
    )
