"""Explain a ciphertext, or a value as etcd holds it, without decrypting: what it is, what it needs, what is wrong.

Pure: bytes in, an `Inspection` out, whatever the bytes. Knows no keys; whoever has them looks up `key_ids` and
`labels`. Formats: docs/formats.md.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass, field, replace
from typing import Final

from kmsd.etcd.envelope import PREFIX, Damaged, KmsValue, Plain, Transformed, need, parse
from kmsd.formats.ciphertext import HEADER_BEGINS, CiphertextFormat, KeyName, classify, decoded_length, read_header
from kmsd.formats.diagnostics import RESTORE, Finding, JweReport, header_trouble, of_form, of_format
from kmsd.formats.jwe import NOT_OURS

INPUT_MAX: Final = 4 << 20
"""The most octets that are looked at."""

_COMPACT = re.compile(rb"[!-\-/-~]*(?:\.[!-\-/-~]*){4}")
_ENCODED = re.compile(rb"[A-Za-z0-9+/_=\s-]+")


@dataclass(frozen=True)
class Inspection:
    """An explanation of a value. format: a `CiphertextFormat`, or "plaintext", or "kube-apiserver aescbc" and its like.
    summary: one sentence. envelope: what kube-apiserver put around it, if anything.

    key_ids, labels: what names the keys that may open it; a label stands for every key that has held it.
    any_key: it names none, and which key it needs is not written in it.
    unauthenticated: nothing in it shows whether it was altered; read only with legacy.allow_unauthenticated.
    intact: nothing fatal was found.
    ciphertext: what a KMS plugin is asked to decrypt; empty if there is none.
    """

    format: str
    summary: str
    findings: tuple[Finding, ...] = ()
    envelope: KmsValue | None = None
    jwe: JweReport | None = None
    key_ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    any_key: bool = False
    unauthenticated: bool = False
    ciphertext: bytes = field(default=b"", repr=False)

    @property
    def intact(self) -> bool:
        return not any(each.fatal for each in self.findings)


def inspect(data: bytes) -> Inspection:
    """Explain a ciphertext or a stored value, as it is or in base64 or base64url."""
    if len(data) > INPUT_MAX:
        why = Finding(f"{len(data)} bytes are more than kube-apiserver stores ({INPUT_MAX})", NOT_OURS, True)
        return Inspection(CiphertextFormat.UNKNOWN, "Too long to be looked at.", (why,))
    found = _look(data)
    if found is None:
        inner = _decoded(data)
        found = None if inner is None else _look(inner)
        if found is not None:
            found = replace(found, findings=(Finding("the input was base64, and was decoded first"), *found.findings))
    return found or _unrecognised(data)


def _look(data: bytes) -> Inspection | None:
    """Explain the bytes; None if they are nothing that is known by its beginning or its form."""
    if data.startswith(PREFIX):
        return _stored(data)
    if data.startswith(b"{"):
        inner = _of_kmsctl(data)
        return _plain(data) if inner is None else _ciphertext(inner)
    if data.startswith(b"k8s\0"):
        return _plain(data)
    text = data.strip()
    if _COMPACT.fullmatch(text) or (text.startswith(b"eyJ") and (b"." in text or starts_header(text))):
        return _ciphertext(text)
    return None


def starts_header(text: bytes) -> bool:
    """Return whether a text without dots is the beginning of a JWE's header, rather than of any JSON in base64."""
    head = text[: 4 * (len(text[:64]) // 4)].translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return HEADER_BEGINS.match(b64decode(head)) is not None
    except Base64Error:
        return False


def _of_kmsctl(data: bytes) -> bytes | None:
    """Return the ciphertext in what `kmsctl encrypt -o json` wrote."""
    try:
        ciphertext = json.loads(data)["ciphertext"]
        return b64decode(ciphertext, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _decoded(data: bytes) -> bytes | None:
    """Return the bytes that base64 or base64url stands for, padded or not, in lines or not (RFC 4648, 4 and 5)."""
    if not _ENCODED.fullmatch(data):
        return None
    text = b"".join(data.split()).rstrip(b"=")
    text = text.translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except Base64Error:
        return None


def _unrecognised(data: bytes) -> Inspection:
    if not data.strip():
        return Inspection(CiphertextFormat.UNKNOWN, "There is nothing.", (Finding("the input is empty", "", True),))
    why = Finding(
        "this is neither a JWE nor a value that kube-apiserver encrypted, as it is or in base64",
        "give a ciphertext, or a value from etcd (`etcdctl get --print-value-only KEY`)",
        True,
    )
    return Inspection(CiphertextFormat.UNKNOWN, "Not recognised.", (why,))


def _plain(data: bytes) -> Inspection:
    how = "protobuf" if data.startswith(b"k8s\0") else "JSON"
    why = Finding(
        "it is not encrypted",
        "if its resource is to be encrypted, name it in the EncryptionConfiguration and rewrite it",
        True,
    )
    return Inspection("plaintext", f"An object as kube-apiserver writes it in {how}, not encrypted.", (why,))


def _stored(data: bytes) -> Inspection:
    value = parse(data)
    if isinstance(value, Damaged) and data.endswith(b"\n"):
        # etcdctl, echo and editors put a line end behind what they write.
        value = parse(data[:-1])
    match value:
        case KmsValue():
            return _kms(value)
        case Transformed(transform):
            why = Finding("no KMS is asked for it", "its key stands in the EncryptionConfiguration", True)
            return Inspection(
                f"kube-apiserver {transform}", f"Encrypted by kube-apiserver itself: {transform}.", (why,)
            )
        case Damaged(reason, version, provider):
            where = f"A KMS {version} value of the provider {provider!r}" if version else "An encrypted value"
            return Inspection(CiphertextFormat.UNKNOWN, f"{where}, damaged.", (Finding(reason, RESTORE, True),))
        case Plain():
            raise AssertionError("a value with the prefix is not plain")


def _kms(value: KmsValue) -> Inspection:
    inner = _ciphertext(value.encrypted_dek)
    where = f"a KMS {value.version} value of the provider {value.provider!r}"
    summary = f"{inner.summary.removesuffix('.')}, in {where}."
    found = replace(inner, envelope=value, summary=summary)
    if value.version == "v1":
        return found
    key_ids = tuple(dict.fromkeys((value.key_id, *inner.key_ids)))
    needs = need(value)
    if needs.key is None:
        clash = Finding(f"{needs.reason}: {value.key_id!r} and {', '.join(map(repr, inner.key_ids))}", RESTORE, True)
        return replace(found, findings=(*found.findings, clash), key_ids=key_ids)
    if needs.key.by_label:
        return found
    if needs.label:
        by_keysealer = f"A ciphertext that KeySealer wrote with aes-gcm, in {where}."
        found = replace(found, format=needs.format, summary=by_keysealer, labels=(needs.label,))
    return replace(found, key_ids=key_ids[:1], any_key=False)


def _ciphertext(text: bytes) -> Inspection:
    segments = text.split(b".", 5)
    header = read_header(segments[0])
    if header is None:
        why = header_trouble(segments)
        return Inspection(
            CiphertextFormat.UNKNOWN, "A ciphertext of no format that is known.", (why,), any_key=True, ciphertext=text
        )
    padded = [*segments, b"", b"", b"", b""][:5]
    jwe = JweReport(
        alg=header.alg,
        enc=header.enc,
        kid=header.kid,
        hkid=header.hkid,
        iv_bytes=decoded_length(padded[2]),
        ciphertext_bytes=decoded_length(padded[3]),
        tag_bytes=decoded_length(padded[4]),
        header=header.raw.decode(errors="backslashreplace"),
    )
    sealed = classify(header, jwe.iv_bytes)
    findings = [*of_form(text, segments, header), *of_format(sealed.format, header, jwe)]
    return Inspection(
        format=sealed.format,
        summary=_SUMMARIES[sealed.format],
        findings=tuple(findings),
        jwe=jwe,
        key_ids=_key_ids(sealed.key),
        labels=(sealed.key.text,) if sealed.key and sealed.key.by_label else (),
        any_key=sealed.key is None,
        unauthenticated=sealed.format is CiphertextFormat.K8S_KMS_PLUGIN_CBC,
        ciphertext=text,
    )


_SUMMARIES: Final = {
    CiphertextFormat.NATIVE: "A ciphertext of kmsd's own format.",
    CiphertextFormat.K8S_KMS_PLUGIN_GCM: "A ciphertext that k8s-kms-plugin wrote with aes-gcm, or kmsd for it.",
    CiphertextFormat.K8S_KMS_PLUGIN_CBC: "A ciphertext that k8s-kms-plugin wrote with aes-cbc.",
    CiphertextFormat.KEYSEALER: "A ciphertext that KeySealer wrote with aes-cbc.",
    CiphertextFormat.UNKNOWN: "A JWE that kmsd does not write.",
}


def _key_ids(key: KeyName | None) -> tuple[str, ...]:
    return (key.text,) if key is not None and not key.by_label else ()
