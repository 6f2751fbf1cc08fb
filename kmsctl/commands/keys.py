"""`kmsctl keys`: the group, and its commands that only look."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Annotated

import typer

from kmsctl import diagnostics, documents, keyview, options, output
from kmsctl.options import KeyName
from kmsctl.output import OutputFormat
from kmsctl.text import age, timestamp
from kmsd.client import ClientError, Key, KeyDetail, KeyState, KeyTest, KeyType, connect, escape

ROUNDS_MAX = 1000
SECONDS_PER_ROUND = 0.25
"""Seconds that a slow token is given for one encryption and one decryption."""


def keys(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl keys list
      kmsctl keys show k8s-kek
      kmsctl keys test k8s-kek --rounds 100

    Look at the keys on the token; make, name, test, retire and destroy them.

    KEY is a label, a key id, or sha256: and the first 8 digits or more of a key id's hash.
    """
    options.want_command(ctx)


def list_(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys list
      kmsctl keys list -o wide
      kmsctl keys list -o name
      kmsctl keys list -o json

    List the keys on the token, in 80 columns or those of the terminal: a long label is shortened in its middle. Whole
    labels and key ids are in -o wide.

    SHA256 is the hash of the key id that kube-apiserver writes in its logs, USED the time since
    its last use. USES in -o wide counts since kmsd started.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    write_label = ""
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_keys()
        if form in (OutputFormat.TABLE, OutputFormat.WIDE):
            with contextlib.suppress(ClientError):  # the list is what was asked for
                write_label = kmsd.get_status().write_label
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"keys": [documents.of(each) for each in found]}, form)
    elif form is OutputFormat.NAME:
        output.emit_names(each.label for each in found)
    else:
        _show_list(found, form)
        keyview.point_out(found, write_label)


def _show_list(keys: tuple[Key, ...], form: OutputFormat) -> None:
    if not keys:
        diagnostics.note("the token holds no keys")
        diagnostics.hint("`kmsctl keygen LABEL` makes one")
        return
    output.emit(keyview.table(keys, wide=form is OutputFormat.WIDE, now=datetime.now(UTC)))
    for each in keys:
        if each.state in (KeyState.UNUSABLE, KeyState.PLANTED):
            keyview.complain(each)


def show(
    ctx: typer.Context,
    key: KeyName,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys show k8s-kek
      kmsctl keys show k8s-kek -o json

    Show all that is known of one key, and the HMAC key beside it, if there is one.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_key(key)
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(
                {"key": documents.of(found.key), "companion": documents.or_none(found.companion)}, form
            )
        case OutputFormat.NAME:
            output.emit_names([found.key.label])
        case _:
            output.emit(output.sheet(_sheet(found, datetime.now(UTC))))


def _writes(key: Key) -> str:
    if not key.enc:
        return ""
    return f", writes {'RSA-OAEP-256 with ' if key.type is KeyType.RSA else ''}{escape(key.enc)}"


def _sheet(found: KeyDetail, now: datetime) -> list[tuple[str, str]]:
    key = found.key
    rows = [
        ("LABEL", escape(key.label)),
        ("STATE", keyview.state(key)),
        ("", f"{escape(key.unusable_reason)}; hint: {escape(key.unusable_hint)}" if key.unusable_reason else ""),
        ("KEY ID", escape(key.key_id) or "-"),
        ("SHA256", keyview.key_hash(key, wide=True)),
        ("TYPE", f"{keyview.algorithm(key)}{_writes(key)}"),
        ("TOKEN", escape(", ".join(dict.fromkeys(part for part in (key.token, key.token_label) if part))) or "-"),
        ("CREATED", f"{timestamp(key.created)} ({age(key.created, now)} ago)" if key.created else "unknown"),
        ("USES", f"{key.encrypts} encrypts, {key.decrypts} decrypts since kmsd started"),
        ("LAST USE", f"{timestamp(key.last_used)} ({age(key.last_used, now)} ago)" if key.last_used else "unknown"),
        ("MAY", keyview.permissions(key) or "-"),
        ("ATTRIBUTES", keyview.attributes(key) or "-"),
    ]
    if found.companion is not None:
        beside = found.companion
        rows.append(("BESIDE IT", f"{escape(beside.label)} ({keyview.algorithm(beside)}, {beside.state})"))
    return [(name, value) for name, value in rows if value]


def try_key(
    ctx: typer.Context,
    key: KeyName,
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, max=ROUNDS_MAX, help="Number of rounds.")] = 10,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys test k8s-kek
      kmsctl keys test k8s-kek --rounds 100 -o json

    Encrypt random bytes with a key, decrypt them, compare, and show how long the token took.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    patience = max(opts.timeout, rounds * SECONDS_PER_ROUND) if timeout is None else timeout
    with connect(opts.target, timeout=patience) as kmsd, diagnostics.working(f"{rounds} round trips through the token"):
        tested = kmsd.test_key(key, rounds=rounds)
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(documents.of(tested), form)
        case OutputFormat.NAME:
            output.emit_names([tested.key.label])
        case _:
            output.emit(_timings(tested))
            diagnostics.note(f"{tested.rounds} round trips with {keyview.describe(tested.key)}, all of them right")


def _timings(test: KeyTest) -> str:
    rows = [
        [name, f"{timing.minimum:.3f}", f"{timing.median:.3f}", f"{timing.maximum:.3f}"]
        for name, timing in (("encrypt", test.encrypt), ("decrypt", test.decrypt))
    ]
    return output.table(("OPERATION", "MIN MS", "MEDIAN MS", "MAX MS"), rows)
