"""`kmsctl status`: how kmsd is, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import typer

from kmsctl import documents, options, output
from kmsctl.output import Colour, Format
from kmsctl.text import age
from kmsd.client import Key, ServingState, Status, connect, escape

_LOOKS = {
    ServingState.SERVING: ("●", "*", Colour.GREEN),
    ServingState.DEGRADED: ("◐", "~", Colour.YELLOW),
    ServingState.DOWN: ("○", "o", Colour.RED),
    ServingState.UNKNOWN: ("?", "?", Colour.YELLOW),
}


def status(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl status
      kmsctl status -o wide
      kmsctl status -o json | jq -r .write_key.key_id

    Show whether kmsd serves, with which key and token, and what is wrong.

    Exits 0 whenever kmsd answers; `kmsctl health` is the one that tells good from bad.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(Format.TABLE, Format.WIDE, Format.JSON, Format.YAML, Format.NAME)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_status()
    match form:
        case Format.NAME:
            output.emit(found.state)
        case Format.JSON | Format.YAML:
            output.emit_document(documents.status(found), form)
        case _:
            rows = sheet(found, datetime.now(UTC), wide=form is Format.WIDE)
            output.emit(output.sheet(rows))


def sheet(status: Status, now: datetime, *, wide: bool) -> list[tuple[str, str]]:
    """The rows of the table, their values escaped."""
    return list(_rows(status, now, wide=wide))


def _rows(status: Status, now: datetime, *, wide: bool) -> Iterator[tuple[str, str]]:
    beautiful, plain, colour = _LOOKS[status.state]
    word = f"{output.glyph(beautiful, plain)} {status.state.upper()}"
    yield "STATE", output.paint(word, colour)
    yield "HEALTHZ", escape(status.healthz) or "-"
    if status.hint:
        yield "", f"hint: {escape(status.hint)}"
    yield from _write_key(status, wide=wide)
    yield from _token(status, wide=wide)
    sessions = status.sessions
    yield (
        "SESSIONS",
        f"{sessions.open} of {sessions.configured} open, {sessions.busy} busy, {sessions.stuck} stuck, "
        f"{sessions.queued} queued",
    )
    if status.probe.last_success is None:
        yield "PROBE", "none has succeeded yet"
    else:
        yield "PROBE", f"{age(status.probe.last_success, now)} ago, {status.probe.round_trip_ms:.1f} ms"
    for index, listener in enumerate(status.listeners):
        yield (
            "SOCKETS" if index == 0 else "",
            f"{escape(listener.socket)} ({escape(', '.join(listener.apis))})",
        )
    yield "VERSION", f"{escape(status.version)}, up {age(status.started, now)}"
    for index, problem in enumerate(status.problems):
        severity = "fatal" if problem.fatal else "warning"
        yield "PROBLEMS" if index == 0 else "", f"{severity}: {escape(problem.message)}"
        if problem.hint:
            yield "", f"  hint: {escape(problem.hint)}"


def _write_key(status: Status, *, wide: bool) -> Iterator[tuple[str, str]]:
    key = status.write_key
    if key is None:
        yield "WRITE KEY", f"none: no key can write under the label {escape(status.write_label)}"
    else:
        yield "WRITE KEY", f"{escape(key.label)} ({algorithm(key)}), one of {status.keys} on the token"
        yield "", f"{escape(key.key_id)} {key_hash(key, wide=wide)}"
    if wide:
        yield "FORMAT", escape(status.write_format) or "-"


def _token(status: Status, *, wide: bool) -> Iterator[tuple[str, str]]:
    token = status.token
    yield "TOKEN", f"{'up' if token.up else 'AWAY'}: {escape(token.label) or '-'}, slot {token.slot_id}"
    if wide:
        yield "", escape(f"{token.manufacturer} {token.model}, serial {token.serial}")
        yield "", escape(token.module)


def algorithm(key: Key) -> str:
    return f"{key.type}-{key.bits}" if key.bits else key.type.value


def key_hash(key: Key, *, wide: bool) -> str:
    """The hash that kube-apiserver logs for a key id, shortened for people; a dash if there is no key id."""
    if not key.key_id_sha256:
        return "-"
    return f"sha256:{escape(key.key_id_sha256 if wide else key.key_id_sha256[:8])}"
