"""The look of several kmsd side by side: a table, a screen, and what `-o json` prints of one. Asks nobody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime

from kmsctl import documents, output
from kmsctl.keyview import short_hash
from kmsctl.output import Colour, Document, Span
from kmsctl.text import age, elide, milliseconds, rate, timestamp
from kmsd.client import ServingState, escape
from kmsd.client.fleet import Kind, Member, Standing, agreement, compare

NAME_COLUMNS = 24
LOOKS = {
    ServingState.SERVING: ("●", "*", Colour.GREEN),
    ServingState.DEGRADED: ("◐", "~", Colour.YELLOW),
    ServingState.DOWN: ("○", "o", Colour.RED),
    ServingState.UNKNOWN: ("?", "?", Colour.YELLOW),
}
_AWAY = ("✕", "x", Colour.RED)


def table(standings: Sequence[Standing], now: datetime, *, wide: bool) -> str:
    """Return a row for each, and below it an indented line for each thing to say of it."""
    return "\n".join(output.painted(line, 1 << 20) for line in _lines(standings, now, wide=wide))


def screen(members: Sequence[Member], asked: int, now: datetime, size: os.terminal_size) -> list[list[Span]]:
    """Return the live screen, cut to its size."""
    agreeing, writing = agreement(members)
    said = f"{agreeing} of {writing} write with the same key" if writing else "asking"
    if members:
        said += f", looked {age(max(each.asked for each in members), now)} ago"
    lines: list[list[Span]] = [[(f"{asked} targets: {said}; q leaves", Colour.BOLD)], []]
    lines += _lines(compare(members), now, wide=size.columns >= 200)
    if len(lines) > size.lines:
        left = len(lines) - size.lines + 1
        lines = [*lines[: size.lines - 1], [(f"{left} lines more: a larger terminal shows them", Colour.DIM)]]
    return lines


def document(standing: Standing) -> Document:
    """Return what `-o json` prints of one target."""
    member, status = standing.member, standing.member.status
    error, key = member.error, member.write_key
    return {
        "name": member.target.name,
        "address": member.target.address,
        "answered": status is not None,
        "kind": None if member.kind is None else member.kind.value,
        "error": None if error is None else error.message,
        "hint": (error.hint if error is not None else status.hint if status is not None else "") or None,
        "state": None if status is None else status.state.value,
        "healthz": None if status is None else status.healthz,
        "write_key": documents.or_none(key),
        "writes_since": None if status is None else timestamp(status.following.since),
        "requests_per_second": member.rate,
        "worst_second_p99_ms": member.p99_ms,
        "clock_skew_seconds": None if member.skew is None else round(member.skew, 3),
        "version": None if status is None else status.version,
        "answered_in_seconds": None if member.answered_in is None else round(member.answered_in, 4),
        "odd": standing.odd,
        "remarks": list(standing.remarks),
    }


def moment(members: Sequence[Member]) -> str | None:
    """Return when the first of these was asked, as RFC 3339; None if none was."""
    return timestamp(min((each.asked for each in members), default=None))


def _lines(standings: Sequence[Standing], now: datetime, *, wide: bool) -> list[list[Span]]:
    headers = ["TARGET", "STATE", "WRITE KEY", "SINCE", "REQ/S", "P99 MS", "SKEW", "VERSION", "ANSWERED"]
    rows = [_row(each.member, now, wide=wide) for each in standings]
    if any(each.member.kind not in (None, Kind.LOCAL) for each in standings):
        # Of local ones alone there is nothing to tell.
        headers.insert(1, "KIND")
        for row, each in zip(rows, standings, strict=True):
            row.insert(1, "" if each.member.kind is None else each.member.kind.value)
    if wide:
        headers += ["LABEL", "KEY ID", "ADDRESS"]
    widths = output.widths([headers, *rows]) if rows else [len(each) for each in headers]
    lines: list[list[Span]] = [[(output.row(headers, widths), None)]]
    for each, row in zip(standings, rows, strict=True):
        status = each.member.status
        colour = _AWAY[2] if status is None else Colour.YELLOW if each.odd else LOOKS[status.state][2]
        lines.append([(output.row(row, widths), None if colour is Colour.GREEN else colour)])
        lines += [[(f"   {escape(remark)}", colour if each.odd else None)] for remark in each.remarks]
    return lines


def _row(member: Member, now: datetime, *, wide: bool) -> list[str]:
    status, key = member.status, member.write_key
    beautiful, plain, _ = _AWAY if status is None else LOOKS[status.state]
    state = "UNREACHABLE" if status is None else status.state.upper()
    name = member.target.name
    row = [
        name if wide else elide(name, NAME_COLUMNS),
        f"{output.glyph(beautiful, plain)} {state}",
        short_hash(key.key_id_sha256, wide=wide) if key is not None else "" if status is None else "none",
        age(None if status is None else status.following.since, now),
        "" if member.rate is None else rate(member.rate),
        "" if member.p99_ms is None else milliseconds(member.p99_ms),
        "" if member.skew is None else f"{member.skew:+.1f}s",
        "" if status is None else status.version,
        "" if member.answered_in is None else f"{member.answered_in * 1000:.0f}ms",
    ]
    if wide:
        row += [key.label if key is not None else "", key.key_id if key is not None else "", member.target.address]
    return row
