"""The look of a key to people: the words, tables and hints that every command about keys shares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kmsctl import diagnostics, options, output
from kmsctl.output import Document, OutputFormat
from kmsctl.text import age, count, elide, timestamp
from kmsd.client import Key, KeyState, KeyType, escape
from kmsd.near import near

FORMATS = options.ALL


def algorithm(key: Key) -> str:
    """Return the type and length of a key, as aes-256 or ec-p256."""
    if key.type is KeyType.EC:
        return f"ec-p{key.bits}" if key.bits else "ec"
    return f"{key.type}-{key.bits}" if key.bits else key.type.value


def short_hash(key_id_sha256: str, *, wide: bool = False) -> str:
    """Return the hash that kube-apiserver logs for a key id, shortened for people and escaped; empty if there is
    none."""
    if not key_id_sha256:
        return ""
    return f"sha256:{escape(key_id_sha256 if wide else key_id_sha256[:8])}"


def key_hash(key: Key, *, wide: bool) -> str:
    """Return the hash of a key's id, shortened unless wide."""
    return short_hash(key.key_id_sha256, wide=wide) or "-"


def state(key: Key) -> str:
    """Return the state of a key; of one that signs, with what it signs."""
    return f"{key.state.value} ({escape(key.purpose)})" if key.state is KeyState.SIGNING else key.state.value


def describe(key: Key) -> str:
    """Return for a sentence the label, and what tells this key from another that may get the label."""
    identity = f", {key.key_id}, {key_hash(key, wide=False)}" if key.key_id else ""
    return f"{key.label!r} ({algorithm(key)}{identity})"


def emit_one(document: Document, key: Key, form: OutputFormat, companion: Key | None = None) -> None:
    """Print a command's document, or its key (and the key beside it) as a list of one or two."""
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(document, form)
    elif form is OutputFormat.NAME:
        output.emit_names([key.label])
    else:
        shown = (key,) if companion is None else (key, companion)
        output.emit(table(shown, wide=form is OutputFormat.WIDE, now=datetime.now(UTC)))


LIST_COLUMNS = 80
"""Columns that a list of keys may take where nobody knows how many there are."""
LABEL_COLUMNS = 12
"""Columns that a label gets at the least."""


def table(keys: Sequence[Key], *, wide: bool, now: datetime) -> str:
    """Return a list of keys. It fits the terminal, or 80 columns, unless it is wide: a long label is shortened in its
    middle, and pads nothing."""
    headers = ["LABEL", "STATE", "TYPE", "SHA256", "CREATED" if wide else "AGE", "LAST USE" if wide else "USED"]
    rows = [
        [
            visible(each.label),
            state(each),
            algorithm(each),
            key_hash(each, wide=wide),
            (timestamp(each.created) or "") if wide else age(each.created, now),
            (timestamp(each.last_used) or "") if wide else age(each.last_used, now),
        ]
        for each in keys
    ]
    if not wide:
        taken = sum(output.widths([headers, *rows])[1:]) + 3 * (len(headers) - 1)
        room = max(LABEL_COLUMNS, max(LIST_COLUMNS, output.columns()) - taken)
        return output.table(headers, [[elide(label, room), *rest] for label, *rest in rows])
    headers.insert(3, "KEY ID")
    headers.insert(6, "USES")
    for row, each in zip(rows, keys, strict=True):
        row.insert(3, each.key_id)
        row.insert(6, count(each.encrypts + each.decrypts))
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
    headers += ["TOKEN", "TOKEN LABEL", "ENCRYPTS", "DECRYPTS", "WRITES", "MAY", "ATTRIBUTES", "REASON"]
    return output.table(headers, rows)


def visible(label: str) -> str:
    """Return a label in a table: in quotes if a blank stands at its ends, where nobody would see it."""
    return label if label == label.strip() else f"'{label}'"


def point_out(keys: Sequence[Key], write_label: str) -> None:
    """Say which labels are easily taken for the write label."""
    for each in near(write_label, [each.label for each in keys]):
        diagnostics.warning(f"the label {each!r} is not the write label {write_label!r}")


def permissions(key: Key) -> str:
    """Return what a key may be used for."""
    uses = {
        "encrypt": key.can_encrypt,
        "decrypt": key.can_decrypt,
        "sign": key.can_sign,
        "verify": key.can_verify,
    }
    return ",".join(name for name, allowed in uses.items() if allowed)


def attributes(key: Key) -> str:
    """Return what the token says that protects a key, or does not."""
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
    """Warn about a key that cannot serve."""
    diagnostics.warning(f"the key {key.label!r} cannot serve: {key.unusable_reason or 'kmsd gave no reason'}")
    if key.unusable_hint:
        diagnostics.hint(key.unusable_hint)


def next_step(key: Key) -> None:
    """Give the hint that follows a key that was made or changed."""
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
        case KeyState.SIGNING:
            group = "jwt keys" if key.purpose == "jwt" else "ca show"
            diagnostics.hint(f"this key signs, and encrypts nothing; `kmsctl {group}` says what it has signed")
        case KeyState.UNUSABLE | KeyState.PLANTED:
            complain(key)
        case _:
            diagnostics.hint("`kmsctl keys list` shows what kmsd makes of it")
