"""The targets side by side, the odd one out first, from what a View holds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kmsd.client import escape
from kmsd.client.clientconfig import Target
from kmsd.client.fleet import Member, Standing, agreement, compare
from kmstui import styles
from kmstui.memoize import once
from kmstui.rotation_view import node_names
from kmstui.styles import Colour, Look
from kmstui.text import shorten_left
from kmstui.view import Reading, View

_ASKING = Look("…", "ASKING", Colour.PLAIN)
_NEVER = datetime.fromtimestamp(0, UTC)
_NAME_MOST = 32


@dataclass(frozen=True)
class FleetRow:
    """A target in the table of all. One target. name: a short one. standing: among those that answer now. reading: its
    last answer, which may be an old one."""

    target: str
    name: str
    standing: Standing
    reading: Reading[Member]

    @property
    def last(self) -> Member | None:
        """Return what it said when it last answered."""
        return self.reading.value

    @property
    def old(self) -> bool:
        return self.reading.error is not None

    @property
    def look(self) -> Look:
        if self.old:
            return styles.NO_ANSWER
        if self.last is None or self.last.status is None:
            return _ASKING
        look = styles.serving(self.last.status.state)
        return (
            Look(styles.WARN, look.word, Colour.WARN) if self.standing.remarks and look.glyph == styles.GOOD else look
        )


def rows(view: View) -> tuple[FleetRow, ...]:
    """Return a row for each target, the odd one first."""
    return _rows(view.targets, view.fleet)


@once
def _rows(targets: Sequence[str], fleet: Mapping[str, Reading[Member]]) -> tuple[FleetRow, ...]:
    readings = {target: fleet.get(target, Reading()) for target in dict.fromkeys(targets)}
    members = [_member(target, reading) for target, reading in readings.items()]
    names = node_names(tuple(readings))
    return tuple(
        FleetRow(target, escape(shorten_left(names[target], _NAME_MOST)), standing, readings[target])
        for standing in compare(members)
        for target in (standing.member.target.name,)
    )


def _member(target: str, reading: Reading[Member]) -> Member:
    """Return what counts in the comparison: what is true now."""
    if reading.error is None and reading.value is not None:
        return reading.value
    return Member(Target(target, target), _NEVER, error=reading.error)


def headline(found: Sequence[FleetRow]) -> str:
    """Return how many agree on the write key; empty while nobody has one."""
    members = [row.standing.member for row in found]
    agreeing, have = agreement(members)
    if not have:
        return ""
    waiting = sum(row.last is None and not row.old for row in found)
    silent = sum(row.old for row in found)
    parts = [f"the write key agrees on {agreeing} of {have}"]
    parts += [f"{silent} without an answer"] if silent else []
    parts += [f"{waiting} being asked"] if waiting else []
    return ", ".join(parts)


def remarks(found: Sequence[FleetRow]) -> Iterator[tuple[Look, str, str]]:
    """Yield (look, name, sentence) of each target that stands out, the oddest first."""
    for row in found:
        if row.standing.remarks:
            yield row.look, row.name, escape(row.standing.remarks[0])
