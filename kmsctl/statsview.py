"""Statistics for people: the tables of one snapshot, and the lines of the live view. Pure but for stdout's looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kmsctl import output
from kmsctl.figures import Call, CallTotal, FrameHistory, Window, columns, totals
from kmsctl.keyview import short_hash
from kmsctl.output import Colour, Span
from kmsctl.text import age, count, milliseconds, rate, sparkline
from kmsd.client import KeyUse, Latency, Sessions, StatsFrame, escape

Line = list[Span]
Section = list[Line]

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-:=+*#"


def snapshot(frame: StatsFrame, window: Window, labels: Mapping[str, str], now: datetime, *, wide: bool) -> str:
    """Return the tables of a frame. labels: of keys, by key id."""
    parts = [output.sheet(_summary(frame, window, now))]
    if frame.calls or frame.latencies:
        parts.append(_calls(totals(frame), None))
    if frame.operations:
        parts.append(_operations(frame.operations))
    failed = [[each.api, each.method, each.code, str(each.count)] for each in frame.calls if each.code != "OK"]
    if failed:
        parts.append(output.table(("API", "METHOD", "ERROR", "COUNT"), failed))
    if frame.keys:
        parts.append(_keys(frame.keys, labels, None, now, wide=wide))
    return "\n\n".join(parts)


def _summary(frame: StatsFrame, window: Window, now: datetime) -> list[tuple[str, str]]:
    rows = [
        (
            "LAST",
            f"{window.seconds} s: {window.requests} requests, {window.errors} errors, {rate(window.rate)}/s, "
            f"at most {window.peak}/s",
        ),
    ]
    if window.typical_p50_ms is not None and window.worst_p99_ms is not None and window.max_ms is not None:
        rows.append(
            (
                "LATENCY",
                f"p50 {milliseconds(window.typical_p50_ms)} ms in a typical second, "
                f"p99 {milliseconds(window.worst_p99_ms)} ms in the worst, at most {milliseconds(window.max_ms)} ms",
            )
        )
    rows += [
        ("IN FLIGHT", str(frame.in_flight)),
        ("SESSIONS", session_text(frame.sessions)),
        ("SINCE START", f"{age(frame.started, now)}, in the tables below"),
    ]
    return rows


def session_text(sessions: Sessions) -> str:
    """Return the sessions of the token in a line."""
    return (
        f"{sessions.open} of {sessions.configured} open{sessions.range}, {sessions.busy} busy, {sessions.stuck} stuck, "
        f"{sessions.queued} queued"
    )


def _latencies(latency: Latency | None) -> list[str]:
    if latency is None or not latency.count:
        return ["", "", "", ""]
    return [milliseconds(each) for each in (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)]


def _calls(calls: Sequence[CallTotal], rates: Mapping[Call, float] | None) -> str:
    headers = ["API", "METHOD", "CALLS", "ERRORS", "P50 MS", "P90 MS", "P99 MS", "MAX MS"]
    rows = [[each.api, each.method, count(each.count), count(each.errors), *_latencies(each.latency)] for each in calls]
    _insert_rates(headers, rows, None if rates is None else [rates.get((each.api, each.method), 0.0) for each in calls])
    return output.table(headers, rows)


def _operations(operations: Sequence[Latency]) -> str:
    headers = ["TOKEN", "CALLS", "P50 MS", "P90 MS", "P99 MS", "MAX MS"]
    return output.table(headers, [[each.method, count(each.count), *_latencies(each)] for each in operations])


def _keys(
    keys: Sequence[KeyUse],
    labels: Mapping[str, str],
    rates: Mapping[Call, float] | None,
    now: datetime,
    *,
    wide: bool,
) -> str:
    headers = ["KEY", "SHA256", "ENCRYPTS", "DECRYPTS", "LAST USE"]
    rows = [
        [
            labels.get(each.key_id, each.key_id),
            short_hash(each.key_id_sha256, wide=wide),
            count(each.encrypts),
            count(each.decrypts),
            age(each.last_used, now),
        ]
        for each in keys
    ]
    if wide:
        headers.append("KEY ID")
        for row, each in zip(rows, keys, strict=True):
            row.append(each.key_id)
    _insert_rates(headers, rows, None if rates is None else [rates.get((each.key_id, ""), 0.0) for each in keys])
    return output.table(headers, rows)


def _insert_rates(headers: list[str], rows: list[list[str]], rates: Sequence[float] | None) -> None:
    if rates is None:
        return
    headers.insert(2, "PER S")
    for row, number in zip(rows, rates, strict=True):
        row.insert(2, rate(number))


def live(
    memory: FrameHistory,
    labels: Mapping[str, str],
    source: str,
    size: tuple[int, int],
    now: datetime,
    silence: float = 0.0,
) -> list[Line]:
    """Return the lines of a screen of (columns, rows), the most important first. source: where kmsd is. silence:
    seconds since kmsd was to say something and did not."""
    width, height = size
    frame = memory.now
    if frame is None:
        return []
    title: Line = [
        ("kmsd", Colour.BOLD),
        (f" on {escape(source)}, up {age(frame.started, now)}, at {now:%H:%M:%S} UTC", None),
    ]
    if silence:
        title.insert(1, (f" HAS SAID NOTHING FOR {silence:.0f} s", Colour.RED))
    sections = [
        _pulse(frame, memory.recent()),
        _sparklines(memory, width),
        _plain(_calls(totals(frame), memory.call_rates())) if frame.calls or frame.latencies else [],
        _errors(frame),
        _plain(_keys(frame.keys, labels, memory.key_rates(), now, wide=False)) if frame.keys else [],
        _plain(_operations(frame.operations)) if frame.operations else [],
    ]
    foot: Line = [("q leaves; latencies, counts and errors since kmsd started", Colour.DIM)]
    return _fit(title, [each for each in sections if each], foot, height)


def _pulse(frame: StatsFrame, recent: Window) -> Section:
    failing = recent.errors > 0
    stuck = frame.sessions.stuck > 0
    errors = f"{rate(recent.errors / recent.seconds if recent.seconds else 0.0)}/s"
    return [
        [
            ("REQUESTS ", Colour.DIM),
            (f"{rate(recent.rate)}/s", Colour.BOLD),
            ("   ERRORS ", Colour.DIM),
            (errors, Colour.RED if failing else None),
            ("   IN FLIGHT ", Colour.DIM),
            (str(frame.in_flight), None),
        ],
        [("SESSIONS ", Colour.DIM), (session_text(frame.sessions), Colour.RED if stuck else None)],
    ]


def _sparklines(memory: FrameHistory, width: int) -> Section:
    bars = output.glyph(_BARS, _PLAIN_BARS)
    room = max(10, width - 32)
    seconds = list(memory.seconds)
    shown = min(memory.keep, max(60, len(seconds)))
    drawn: Section = []
    for name, unit, fold, values in (
        ("requests/s", "/s", _mean, [(each.time, float(each.requests)) for each in seconds]),
        ("errors/s", "/s", _mean, [(each.time, float(each.errors)) for each in seconds]),
        ("p99 ms", " ms", max, [(each.time, each.p99_ms) for each in seconds]),
    ):
        heights = columns(values, room, shown, fold)
        top = max(heights, default=0.0)
        colour = Colour.RED if name.startswith("errors") and top else Colour.GREEN
        peak = f"  to {rate(top) if unit == '/s' else milliseconds(top)}{unit}" if top else "  none"
        drawn.append(
            [(f"{name:<11}", Colour.DIM), (sparkline(heights, bars).rjust(room, bars[0]), colour), (peak, None)]
        )
    minutes = f"{shown // 60} min" if shown >= 120 else f"{shown} s"
    drawn.append([(f"{'':<11}last {minutes}", Colour.DIM)])
    return drawn


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _errors(frame: StatsFrame) -> Section:
    failed = [each for each in frame.calls if each.code != "OK"]
    if not failed:
        return []
    rows = [[each.api, each.method, each.code, count(each.count)] for each in failed]
    return _coloured(output.table(("API", "METHOD", "ERROR", "COUNT"), rows), Colour.RED)


def _plain(table: str) -> Section:
    return _coloured(table, None)


def _coloured(table: str, colour: Colour | None) -> Section:
    return [[(line, colour if index else Colour.DIM)] for index, line in enumerate(table.splitlines())]


def _fit(title: Line, sections: Sequence[Section], foot: Line, height: int) -> list[Line]:
    """Return sections under each other, blank lines between them if there is room, and the foot at the bottom."""
    room = max(0, height - 2)
    airy = sum(len(each) + 1 for each in sections) <= room
    body: list[Line] = []
    for section in sections:
        body += [[], *section] if airy else section
    body = body[:room]
    return [title, *body, *([[]] * (room - len(body))), foot][: max(1, height)]
