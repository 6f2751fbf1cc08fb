"""A rotation for people and for scripts: what was done, the timeline on a screen, and its events a line each.

Pure but for stdout's looks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from kmsctl import documents, output
from kmsctl.keyview import algorithm, key_hash, short_hash
from kmsctl.output import Colour, Document, Span
from kmsctl.text import timestamp, width
from kmsd.client import Key, Rotation, escape
from kmsd.client.rotation import Event, KeyTurnover, NodeView, Stage, StageProgress, Timeline

Line = list[Span]

_COLOURS = {StageProgress.DONE: Colour.GREEN, StageProgress.ACTIVE: Colour.BOLD, StageProgress.STUCK: Colour.YELLOW}
_GLYPHS = {
    StageProgress.DONE: ("✔", "+"),
    StageProgress.ACTIVE: ("▶", ">"),
    StageProgress.STUCK: ("▲", "!"),
    StageProgress.WAITING: ("○", "o"),
}
_WORDS = {
    StageProgress.DONE: "done",
    StageProgress.ACTIVE: "now",
    StageProgress.STUCK: "stuck",
    StageProgress.WAITING: "later",
}
_EVENT_WIDTHS = (9, 5, 26, 10, 0)
_TITLE = 26
_INDENT = 6


def document(done: Rotation, *, dry_run: bool) -> Document:
    """Return what `-o json` prints of a rotation."""
    return {
        "rotated": done.rotated,
        "dry_run": dry_run,
        "steps": [documents.of(each) for each in done.steps],
        "old_key": documents.or_none(done.old),
        "new_key": documents.or_none(done.new),
    }


def tables(done: Rotation, *, wide: bool) -> str:
    """Return both keys, and the steps."""
    keys = [
        [role, each.label, each.key_id, key_hash(each, wide=wide), algorithm(each), each.token]
        for role, each in (("old", done.old), ("new", done.new))
        if each is not None
    ]
    headers = ["STEP", "STATE", "KEY", "FROM", "TO", "TOKEN"] + (["WHAT"] if wide else [])
    steps = [
        [
            each.action,
            "done" if each.done else "to do",
            short_hash(each.key_id_sha256, wide=wide),
            each.from_label,
            each.to_label,
            each.token,
            *([each.text] if wide else []),
        ]
        for each in done.steps
    ]
    parts = []
    if keys:
        parts.append(output.table(["KEY", "LABEL", "KEY ID", "SHA256", "TYPE", "TOKEN"], keys))
    if steps:
        parts.append(output.table(headers, steps))
    return "\n\n".join(parts)


def turn_document(turn: KeyTurnover, *, rotated: bool) -> Document:
    """Return the first line of a watch in JSON. rotated: False if the rotation was found and is resumed."""
    return {
        "event": "rotation",
        "rotated": rotated,
        "label": turn.write_label,
        "started_at": timestamp(turn.started),
        "old_key": documents.or_none(turn.old),
        "new_key": documents.of(turn.new),
    }


def event_document(event: Event, now: datetime) -> Document:
    """Return what `-o json` prints of an event."""
    return {
        "event": "step",
        "time": timestamp(event.at or now),
        "step": event.step.value,
        "node": event.node or None,
        "progress": event.progress.value,
        "text": event.text or None,
        "commands": list(event.commands),
    }


def event_lines(event: Event, now: datetime) -> str:
    """Return an event as a line, and one for each command."""
    cells = [clock(event.at or now), _WORDS[event.progress], event.title, event.node, event.text]
    commands = [" " * _INDENT + escape(each) for each in event.commands]
    return "\n".join([output.row(cells, _EVENT_WIDTHS), *commands])


def screen(timeline: Timeline, now: datetime, columns: int, lines: int, note: str, foot: str) -> list[Line]:
    """Return the whole screen. note: what goes on just now; foot: what keys do."""
    told: list[Line] = [[], [(escape(note), None)]] if note else []
    room = max(0, lines - 1)
    body = [*picture(timeline, now, columns), *told]
    if len(body) > room:
        body = [*picture(timeline, now, columns, brief=True), *told[1:]]
    return [*body[:room], *([[]] * (room - len(body))), [(foot, Colour.DIM)]]


def picture(timeline: Timeline, now: datetime, columns: int, *, brief: bool = False) -> list[Line]:
    """Return the timeline, in lines of at most so many columns where it can be broken. brief: only what goes on in
    full."""
    turn = timeline.turn
    title = f"Rotation of {escape(turn.write_label)}"
    started = f"started {clock(turn.started)}" if turn.started is not None else ""
    room = max(1, columns - width(title) - width(started) - 2)
    body: list[Line] = [[(title, Colour.BOLD), (" " * room, None), (started, Colour.DIM)]]
    if not brief:
        keys = (("old ", turn.old), ("new ", turn.new))
        body += [*([(name, Colour.DIM), (_identity(each), None)] for name, each in keys if each is not None), []]
    for number, stage in enumerate(timeline.stages, 1):
        if brief and stage.progress in (StageProgress.DONE, StageProgress.WAITING):
            stage = Stage(stage.step, stage.progress)
        body += _stage(number, stage, now, columns)
    return body


def _identity(key: Key) -> str:
    return f"{escape(key.key_id)} {key_hash(key, wide=False)} {escape(key.label)}"


def _stage(number: int, stage: Stage, now: datetime, columns: int) -> Iterator[Line]:
    colour = _COLOURS.get(stage.progress)
    head: Line = [(f"{_glyph(stage.progress)} {number} ", colour), (f"{stage.title:<{_TITLE}} ", None)]
    details = [*(_node(each, now) for each in stage.nodes), *_remarks(stage, now)]
    inline = "   ".join(text for text, _ in details)
    if sum(width(text) for text, _ in head) + width(inline) <= columns:
        for text, shade in details:
            head += [(text, shade), ("   ", None)]
        yield head
    else:
        yield head
        yield from _filled(details, columns)
    for command in stage.commands:
        yield [(" " * _INDENT + escape(command), Colour.BOLD if stage.progress is StageProgress.ACTIVE else Colour.DIM)]


def _filled(details: Sequence[Span], columns: int) -> Iterator[Line]:
    """Return as many details a line as fit; one that fits no line is broken."""
    room = max(20, columns - _INDENT)
    line: Line = []
    used = 0
    for text, shade in details:
        parts = textwrap.wrap(text, room) if width(text) > room else [text]
        for part in parts:
            if line and (used + 3 + width(part) > room or len(parts) > 1):
                yield line
                line = []
            line = [*line, ("   ", None), (part, shade)] if line else [(" " * _INDENT, None), (part, shade)]
            used = sum(width(each) for each, _ in line) - _INDENT
    if line:
        yield line


def _remarks(stage: Stage, now: datetime) -> Iterator[Span]:
    if stage.text:
        yield escape(stage.text), None
    if stage.due is not None and stage.due > now:
        yield f"at {clock(stage.due)}, {_left(stage.due, now)}", Colour.DIM
    if stage.busy:
        yield output.glyph("reading etcd …", "reading etcd ..."), Colour.DIM


def _node(view: NodeView, now: datetime) -> Span:
    node, text = escape(view.node), escape(view.text)
    if view.progress is StageProgress.ACTIVE:
        until = f", {_left(view.due, now)}" if view.due is not None else ""
        return f"{node} {output.glyph('…', '...')} {text}{until}", None
    mark = f"{node} {_glyph(view.progress)}"
    when = f" {clock(view.at)}" if view.at is not None else ""
    return f"{mark}{when}{f' {text}' if text else ''}", _COLOURS.get(view.progress)


def _left(due: datetime | None, now: datetime) -> str:
    """Return how long it may take until then."""
    seconds = 0 if due is None else max(0, -((now - due) // timedelta(seconds=1)))
    return f"{output.glyph('≤', '<=')} {seconds} s" if seconds else "any moment"


def _glyph(progress: StageProgress) -> str:
    return output.glyph(*_GLYPHS[progress])


def clock(moment: datetime | None) -> str:
    """Return the time of day in UTC, as labels and logs have it."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%H:%M:%SZ")
