"""How a key looks to people: the words, tables and hints that every command about keys shares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kmsctl import diagnostics, options, output
from kmsctl.output import Document, Format
from kmsctl.text import age, count, timestamp
from kmsd.client import Key, KeyState, escape

FORMATS = options.ALL


def algorithm(key: Key) -> str:
    return f"{key.type}-{key.bits}" if key.bits else key.type.value


def short_hash(key_id_sha256: str, *, wide: bool = False) -> str:
    """The hash that kube-apiserver logs for a key id, shortened for people and escaped; empty if there is
    none."""
    if not key_id_sha256:
        return ""
    return f"sha256:{escape(key_id_sha256 if wide else key_id_sha256[:8])}"


def key_hash(key: Key, *, wide: bool) -> str:
    return short_hash(key.key_id_sha256, wide=wide) or "-"


def describe(key: Key) -> str:
    """For a sentence: the label, and what tells this key from another that may get the label."""
    identity = f", {key.key_id}, {key_hash(key, wide=False)}" if key.key_id else ""
    return f"{key.label!r} ({algorithm(key)}{identity})"


def emit_one(document: Document, key: Key, form: Format, companion: Key | None = None) -> None:
    """A command's document, or its key (and the key beside it) as a list of one or two."""
    if form in (Format.JSON, Format.YAML):
        output.emit_document(document, form)
    elif form is Format.NAME:
        output.emit_names([key.label])
    else:
        shown = (key,) if companion is None else (key, companion)
        output.emit(table(shown, wide=form is Format.WIDE, now=datetime.now(UTC)))


def table(keys: Sequence[Key], *, wide: bool, now: datetime) -> str:
    headers = ["LABEL", "STATE", "TYPE", "KEY ID", "SHA256", "CREATED" if wide else "AGE", "USES", "LAST USE"]
    rows = [
        [
            each.label,
            each.state.value,
            algorithm(each),
            each.key_id,
            key_hash(each, wide=wide),
            (timestamp(each.created) or "") if wide else age(each.created, now),
            count(each.encrypts + each.decrypts),
            (timestamp(each.last_used) or "") if wide else age(each.last_used, now),
        ]
        for each in keys
    ]
    if wide:
        headers += ["TOKEN", "TOKEN LABEL", "ENCRYPTS", "DECRYPTS", "WRITES", "MAY", "ATTRIBUTES", "REASON"]
        for row, each in zip(rows, keys, strict=True):
            row += [
                each.token,
                each.token_label,
                str(each.encrypts),
                str(each.decrypts),
                each.enc,
                permissions(each),
                attributes(each),
                each.unusable_reason,
            ]
    return output.table(headers, rows)


def permissions(key: Key) -> str:
    uses = {
        "encrypt": key.can_encrypt,
        "decrypt": key.can_decrypt,
        "sign": key.can_sign,
        "verify": key.can_verify,
    }
    return ",".join(name for name, allowed in uses.items() if allowed)


def attributes(key: Key) -> str:
    have = {
        "sensitive": key.sensitive,
        "extractable": key.extractable,
        "private": key.private,
        "local": key.local,
        "always sensitive": key.always_sensitive,
        "never extractable": key.never_extractable,
    }
    return ",".join(name for name, holds in have.items() if holds)


def complain(key: Key) -> None:
    """About a key that cannot serve."""
    diagnostics.warning(f"the key {key.label!r} cannot serve: {key.unusable_reason or 'kmsd gave no reason'}")
    if key.unusable_hint:
        diagnostics.hint(key.unusable_hint)


def next_step(key: Key) -> None:
    match key.state:
        case KeyState.WRITE:
            diagnostics.hint("kmsd encrypts with this key now; `kmsctl health --wait` returns when it is served")
        case KeyState.READABLE if key.unusable_reason:
            complain(key)
        case KeyState.READABLE:
            diagnostics.hint("this key decrypts what names it; `kmsctl status` shows the key that kmsd encrypts with")
        case KeyState.PENDING:
            diagnostics.hint("this key waits for the write label; `kmsctl keys list` shows who has it")
        case KeyState.COMPANION:
            diagnostics.hint("an HMAC key encrypts nothing by itself; it is the second key of an AES-CBC pair")
        case KeyState.ARCHIVED:
            diagnostics.hint("this key is retired: it decrypts still, and `kmsctl keys destroy` ends it")
        case KeyState.UNUSABLE | KeyState.PLANTED:
            complain(key)
        case _:
            diagnostics.hint("`kmsctl keys list` shows what kmsd makes of it")
