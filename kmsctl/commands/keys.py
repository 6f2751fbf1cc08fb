"""`kmsctl keys ...` and `kmsctl keygen`: the keys on the token."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.commands.status import algorithm, key_hash
from kmsctl.output import Document, Format
from kmsctl.text import age, timestamp
from kmsd.client import Key, KeyState, KeyType, connect

_FORMATS = (Format.TABLE, Format.WIDE, Format.JSON, Format.YAML, Format.NAME)

Label = Annotated[str, typer.Argument(metavar="LABEL", help="Label of the key (CKA_LABEL).", show_default=False)]
KeyId = Annotated[
    str,
    typer.Option("--id", metavar="TEXT", help="Its key id (CKA_ID). Default: a new UUID.", show_default=False),
]


class Kind(StrEnum):
    AES = "aes"
    HMAC = "hmac"


class Bits(StrEnum):
    B128 = "128"
    B192 = "192"
    B256 = "256"


app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def keys(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl keys list
      kmsctl keys adopt k8s-kek

    List the keys on the token, and give an identity to those that lack one.
    """
    if ctx.invoked_subcommand is None:
        diagnostics.screed(ctx.get_help())
        raise typer.Exit(diagnostics.ExitCode.USAGE)


@app.command("list", short_help="List the keys on the token.")
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
      kmsctl keys list -o json | jq -r '.keys[] | select(.state == "write") | .key_id'

    List the keys on the token.

    SHA256 is the hash of the key id that kube-apiserver writes in its logs.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*_FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_keys()
    if form in (Format.JSON, Format.YAML):
        output.emit_document({"keys": [documents.key(each) for each in found]}, form)
    else:
        _show(found, form)
        if not found and form is not Format.NAME:
            diagnostics.note("the token holds no keys")
            diagnostics.hint("`kmsctl keygen LABEL` makes one")


@app.command(short_help="Give a key id to a key that lacks one.")
def adopt(
    ctx: typer.Context,
    label: Label,
    key_id: KeyId = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys adopt k8s-kek
      kmsctl keys adopt k8s-kek --id 7d3f0c52-6f0e-4a6e-9d83-0d3b5e2c8a11

    Give a key id (CKA_ID) to a key that was made elsewhere without one, so that it can serve.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*_FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        key = kmsd.adopt_key(label, key_id=key_id)
    _emit_one({"key": documents.key(key)}, key, form)
    _next_step(key)


def keygen(
    ctx: typer.Context,
    label: Label,
    kind: Annotated[Kind, typer.Option("--type", help="What the key is for.")] = Kind.AES,
    bits: Annotated[Bits, typer.Option("--bits", help="Length of the key.")] = Bits.B256,
    key_id: KeyId = "",
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="If the label is taken, show the key that holds it.")
    ] = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keygen k8s-kek
      kmsctl keygen k8s-kek --if-not-exists
      kmsctl keygen k8s-kek --bits 128 -o json

    Make a key on the token. It never leaves it.

    A label that is taken is a conflict (exit code 6), or with --if-not-exists a success.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*_FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        made = kmsd.generate_key(
            label, type=KeyType(kind.value), bits=int(bits.value), key_id=key_id, if_not_exists=if_not_exists
        )
    key = made.key
    _emit_one({"created": made.created, "key": documents.key(key)}, key, form)
    if not made.created:
        diagnostics.note(f"the key {label!r} was there already; nothing was made")
        _compare(key, kind, bits, key_id)
    _next_step(key)


def _compare(key: Key, kind: Kind, bits: Bits, key_id: str) -> None:
    """Says where a key that was found differs from the one that was asked for."""
    if key.type != kind.value or key.bits != int(bits.value):
        diagnostics.warning(f"it is {algorithm(key)}, not {kind.value}-{bits.value}")
    if key_id and key.key_id != key_id:
        diagnostics.warning(f"its key id is {key.key_id!r}, not {key_id!r}")


def _next_step(key: Key) -> None:
    match key.state:
        case KeyState.WRITE:
            diagnostics.hint("kmsd encrypts with this key now; `kmsctl health --wait` returns when it is served")
        case KeyState.READABLE:
            diagnostics.hint("this key decrypts what names it; `kmsctl status` shows the key that kmsd encrypts with")
        case KeyState.PENDING:
            diagnostics.hint("this key waits for the write label; `kmsctl keys list` shows who has it")
        case KeyState.COMPANION:
            diagnostics.hint("an HMAC key encrypts nothing by itself; it is the second key of an AES-CBC pair")
        case KeyState.UNUSABLE:
            _complain(key)
        case _:
            diagnostics.hint("`kmsctl keys list` shows what kmsd makes of it")


def _complain(key: Key) -> None:
    diagnostics.warning(f"the key {key.label!r} cannot serve: {key.unusable_reason or 'kmsd gave no reason'}")
    if key.unusable_hint:
        diagnostics.hint(key.unusable_hint)


def _emit_one(document: Document, key: Key, form: Format) -> None:
    if form in (Format.JSON, Format.YAML):
        output.emit_document(document, form)
    elif form is Format.NAME:
        output.emit_names([key.label])
    else:
        output.emit(_table((key,), wide=form is Format.WIDE, now=datetime.now(UTC)))


def _show(keys: tuple[Key, ...], form: Format) -> None:
    if form is Format.NAME:
        output.emit_names(each.label for each in keys)
        return
    output.emit(_table(keys, wide=form is Format.WIDE, now=datetime.now(UTC)) if keys else "")
    for each in keys:
        if each.state is KeyState.UNUSABLE:
            _complain(each)


def _table(keys: tuple[Key, ...], *, wide: bool, now: datetime) -> str:
    headers = ["LABEL", "STATE", "TYPE", "KEY ID", "SHA256", "CREATED" if wide else "AGE"]
    rows = [
        [
            each.label,
            each.state.value,
            algorithm(each),
            each.key_id,
            key_hash(each, wide=wide),
            (timestamp(each.created) or "") if wide else age(each.created, now),
        ]
        for each in keys
    ]
    if wide:
        headers += ["TOKEN", "MAY", "ATTRIBUTES", "REASON"]
        for row, each in zip(rows, keys, strict=True):
            row += [each.token_label, _uses(each), _attributes(each), each.unusable_reason]
    return output.table(headers, rows)


def _uses(key: Key) -> str:
    uses = {
        "encrypt": key.can_encrypt,
        "decrypt": key.can_decrypt,
        "sign": key.can_sign,
        "verify": key.can_verify,
    }
    return ",".join(name for name, allowed in uses.items() if allowed)


def _attributes(key: Key) -> str:
    have = {"sensitive": key.sensitive, "extractable": key.extractable, "private": key.private}
    return ",".join(name for name, holds in have.items() if holds)
