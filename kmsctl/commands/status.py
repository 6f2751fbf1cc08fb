"""`kmsctl status`: how kmsd is, on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import typer

from kmsctl import documents, options, output
from kmsctl.keyview import algorithm, key_hash, short_hash
from kmsctl.output import OutputFormat
from kmsctl.statsview import session_text
from kmsctl.targetsview import LOOKS
from kmsctl.text import age
from kmsd.client import (
    Certificate,
    ClientError,
    Following,
    Key,
    KeyState,
    ModuleProcess,
    ServingState,
    Status,
    TenantStatus,
    TokenStatus,
    Upstream,
    connect,
    escape,
)

_TENANTS_SHOWN = 8
"""Tenants that are not served, of which a table tells."""


def status(
    ctx: typer.Context,
    tenant: options.TenantName = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl status
      kmsctl status -o wide
      kmsctl status -o json

    Show whether kmsd serves, with which key and token, and what is wrong. With --tenant: a tenant's key and health.

    Exits 0 whenever kmsd answers; `kmsctl health` is the one that tells good from bad.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    keys: tuple[Key, ...] | None = None
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_status(tenant=tenant)
        if form is not OutputFormat.NAME and not found.upstreams:
            try:
                keys = kmsd.list_keys()
            except ClientError:
                keys = None  # the status says why: what cannot be listed now is counted by kmsd
    states = None if keys is None else _count(keys)
    match form:
        case OutputFormat.NAME:
            output.emit(found.state)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({**documents.of(found), "keys_by_state": states}, form)
        case _:
            rows = list(_rows(found, states, datetime.now(UTC), wide=form is OutputFormat.WIDE))
            output.emit(output.sheet(rows))


def _count(keys: tuple[Key, ...]) -> dict[str, int]:
    found = Counter(each.state for each in keys)
    return {state.value: found[state] for state in KeyState if found[state]}


def _rows(status: Status, states: Mapping[str, int] | None, now: datetime, *, wide: bool) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table, their values escaped."""
    beautiful, plain, colour = LOOKS[status.state]
    word = f"{output.glyph(beautiful, plain)} {status.state.upper()}"
    yield "STATE", output.paint(word, colour)
    yield "HEALTHZ", escape(status.healthz) or "-"
    if status.hint:
        yield "", f"hint: {escape(status.hint)}"
    yield from _write_key(status, wide=wide)
    yield from _following(status.following, now, wide=wide)
    if status.upstreams:
        yield from _upstreams(status.upstreams, now, wide=wide)
    else:
        yield from _keys_and_tokens(status, states, now, wide=wide)
        yield from _tenants(status.tenants)
    if status.certificate is not None:
        yield from _certificate(status.certificate, now, wide=wide)
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


def _keys_and_tokens(
    status: Status, states: Mapping[str, int] | None, now: datetime, *, wide: bool
) -> Iterator[tuple[str, str]]:
    """Yield what a kmsd with tokens has."""
    yield "KEYS", ", ".join(f"{number} {state}" for state, number in states.items()) if states else str(status.keys)
    if len(status.tokens) > 1:
        for each in status.tokens:
            yield from _one_of_tokens(each, wide=wide)
    else:
        yield from _token(status, wide=wide)
    for each in status.tokens:
        if wide or each.process.served > 1:
            yield from _process(each.process, now)
    yield "SESSIONS", session_text(status.sessions)


def _upstreams(upstreams: tuple[Upstream, ...], now: datetime, *, wide: bool) -> Iterator[tuple[str, str]]:
    """Yield the key managers of a proxy."""
    for index, each in enumerate(upstreams):
        how = "up" if each.up else "AWAY"
        mark = ", answered last" if each.last and len(upstreams) > 1 else ""
        words = f"{escape(each.address)}: {how} for {age(each.since, now)}, {each.round_trip_ms:.1f} ms{mark}"
        yield "KEY MANAGERS" if index == 0 else "", words
        if each.reason:
            yield "", f"  {escape(each.reason)}; hint: {escape(each.hint) or '-'}"
        if wide:
            yield "", f"  {each.asked} calls, {each.failed} not answered, {each.in_flight} under way"
            yield "", f"  key {escape(each.key_id) or '-'} {short_hash(each.key_id_sha256, wide=wide)}".rstrip()


def _tenants(tenants: tuple[TenantStatus, ...]) -> Iterator[tuple[str, str]]:
    """Yield how many tenants are served, and those that are not."""
    down = [each for each in tenants if each.state is not ServingState.SERVING]
    if tenants:
        yield "TENANTS", f"{len(tenants) - len(down)} of {len(tenants)} are served"
    for each in down[:_TENANTS_SHOWN]:
        yield "", f"  {escape(each.name)}: {escape(each.healthz)}; hint: {escape(each.hint) or '-'}"
    if len(down) > _TENANTS_SHOWN:
        yield "", f"  and {len(down) - _TENANTS_SHOWN} more"


def _certificate(certificate: Certificate, now: datetime, *, wide: bool) -> Iterator[tuple[str, str]]:
    """Yield the certificate that callers from other machines are shown."""
    ends = certificate.not_after
    left = "" if ends is None else f", {(ends - now).days} days left"
    yield "CERTIFICATE", f"{escape(certificate.subject)}{left}"
    if wide:
        yield "", escape(f"{', '.join(certificate.names)}, serial {certificate.serial}")
    if certificate.key_uri:
        yield "", escape(f"its key is {certificate.key_uri}")


def _write_key(status: Status, *, wide: bool) -> Iterator[tuple[str, str]]:
    key = status.write_key
    if key is None:
        label = f" under the label {escape(status.write_label)}" if status.write_label else ""
        yield "WRITE KEY", f"none: no key can write{label}"
    elif status.upstreams:
        yield "WRITE KEY", f"{escape(key.key_id)} {key_hash(key, wide=wide)}"
    else:
        yield (
            "WRITE KEY",
            f"{escape(key.label)} ({algorithm(key)}){f' on {escape(key.token)}' if len(status.tokens) > 1 else ''}",
        )
        yield "", f"{escape(key.key_id)} {key_hash(key, wide=wide)}"
    if wide and not status.upstreams:
        yield "FORMAT", escape(status.write_format) or "-"


def _token(status: Status, *, wide: bool) -> Iterator[tuple[str, str]]:
    token = status.token
    yield "TOKEN", f"{'up' if token.up else 'AWAY'}: {escape(token.label) or '-'}, slot {token.slot_id}"
    if wide:
        yield "", escape(f"{token.manufacturer} {token.model}, serial {token.serial}")
        yield "", escape(token.module)


def _process(process: ModuleProcess, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the process that has the module loaded, when it is not the first or all is asked for."""
    if process.pid:
        since = age(process.since, now)
        reason = f"; it took over: {escape(process.reason)}" if process.reason else ""
        yield "", f"module in process {process.pid} for {since}, {process.served} since kmsd started{reason}"


def _one_of_tokens(status: TokenStatus, *, wide: bool) -> Iterator[tuple[str, str]]:
    token, sessions = status.token, status.sessions
    what = "new keys are made here" if status.write else "its keys decrypt"
    yield "TOKEN", f"{escape(status.name)}: {'up' if token.up else 'AWAY'}, {escape(token.label) or '-'}, {what}"
    if status.reason:
        yield "", f"{escape(status.reason)}; hint: {escape(status.hint) or '-'}"
    keys = "1 key" if status.keys == 1 else f"{status.keys} keys"
    yield "", f"slot {token.slot_id}, {keys}, {sessions.open} of {sessions.configured} sessions open{sessions.range}"
    if wide:
        yield "", escape(f"{token.manufacturer} {token.model}, serial {token.serial}".strip())
        yield "", escape(token.module)


def _following(following: Following, now: datetime, *, wide: bool) -> Iterator[tuple[str, str]]:
    """Yield how far kube-apiserver has followed to the present write key."""
    if following.since is None:
        return

    since = following.since
    rotated = bool(following.previous_key_id)
    what = "rotated" if rotated else "this key is answered since"
    yield "KUBE-APISERVER", f"{what} {age(since, now)}{' ago' if rotated else ''}"

    def seen(name: str, first: datetime | None, last: datetime | None) -> str:
        if first is None:
            return f"{name} with it: none yet"
        after = age(since, first)  # how long it took, which stays the same
        return f"{name} with it: first {after} after {'the rotation' if rotated else 'that'}, last {age(last, now)} ago"

    yield "", seen("Status", following.first_status, following.last_status)
    yield "", seen("Encrypt", following.first_encrypt, following.last_encrypt)
    if following.previous_key_id:
        before = short_hash(following.previous_key_id_sha256, wide=wide)
        yield "", f"before it: {escape(following.previous_key_id)} {before}".rstrip()
