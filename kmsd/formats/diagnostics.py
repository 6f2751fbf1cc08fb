"""Tell what is wrong with a JWE, as far as can be told without its key. Pure.

kmsd's own reader (`kmsd.crypto`) stops at the first fault; this tells them all. Formats: docs/formats.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kmsd.formats.ciphertext import CiphertextFormat, Header
from kmsd.formats.jwe import CBC_TAGS, GCM, MAX_COMPACT, MAX_HEADER, NOT_OURS, JweError, decode

RESTORE: Final = "restore the object from a backup of etcd"


@dataclass(frozen=True)
class Finding:
    """A thing that is wrong with a value. message: one sentence without a full stop. hint: what to do; may be empty.
    fatal: kmsd would not decrypt it."""

    message: str
    hint: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class JweReport:
    """The parts of a compact JWE (RFC 7516, 7.1), as lengths in octets where they are secret or random.
    header: the JSON as it is. hkid: the MAC key of a pair whose keys have different ids."""

    alg: str
    enc: str
    kid: str
    hkid: str
    iv_bytes: int
    ciphertext_bytes: int
    tag_bytes: int
    header: str


def header_trouble(segments: list[bytes]) -> Finding:
    """Return why there is no header to be read."""
    if len(segments) == 1 and segments[0].startswith(b"eyJ"):
        return Finding("truncated: a compact JWE has 5 segments, this ends within the first", RESTORE, True)
    if len(segments) == 1:
        return Finding("this is no compact JWE: 5 segments with dots between them", NOT_OURS, True)
    if len(segments[0]) > MAX_HEADER:
        return Finding(f"a header has {MAX_HEADER} bytes at most, this has {len(segments[0])}", NOT_OURS, True)
    return Finding(
        "the first segment must be the header of a JWE, a JSON object in base64url, and is not", NOT_OURS, True
    )


def of_form(text: bytes, segments: list[bytes], header: Header) -> Iterator[Finding]:
    """Yield what is wrong with a value as a JWE, whatever its format."""
    if len(text) > MAX_COMPACT:
        yield Finding(f"kmsd reads {MAX_COMPACT} bytes at most, this has {len(text)}", NOT_OURS, True)
    if len(segments) < 5:
        yield Finding(f"truncated: a compact JWE has 5 segments, this has {len(segments)}", RESTORE, True)
    elif len(segments) > 5:
        yield Finding(f"a compact JWE has 5 segments, this has {len(segments)}", NOT_OURS, True)
    names = ("header", "encrypted key", "IV", "ciphertext", "tag")
    for name, segment in zip(names, segments, strict=False):
        if not _canonical(segment):
            yield Finding(f"the {name} must be base64url without padding (RFC 7515, 2), and is not", RESTORE, True)
    if header.repeats:
        yield Finding("a member of the header occurs twice", NOT_OURS, True)
    for member, what in (("crit", "extensions (crit)"), ("zip", "compression (zip)")):
        if member in header.members:
            yield Finding(f"the header asks for {what}, which kmsd does not do", NOT_OURS, True)
    if header.alg == "dir" and segments[1:2] not in ([], [b""]):
        yield Finding(
            f"the encrypted key must be empty under alg dir, and has {len(segments[1])} bytes", NOT_OURS, True
        )


def _canonical(segment: bytes) -> bool:
    try:
        decode(segment, "segment")
    except JweError:
        return False
    return True


def of_format(known: CiphertextFormat, header: Header, jwe: JweReport) -> Iterator[Finding]:
    """Yield what is to be said of a value's format, which `known` names, and what does not fit that format."""
    match known:
        case CiphertextFormat.NATIVE:
            yield from _native(header, jwe)
        case CiphertextFormat.K8S_KMS_PLUGIN_GCM:
            yield from _k8s_kms_plugin_gcm(jwe)
        case CiphertextFormat.K8S_KMS_PLUGIN_CBC:
            yield Finding(
                "the tag authenticates nothing: it is an HMAC over no data, and shows no alteration",
                "kmsd reads it only with legacy.allow_unauthenticated; rewrite the object to be rid of it",
            )
            yield Finding("it does not say which key wrote it", "kmsd tries the one key that legacy.key names")
            yield from _zero_padded(header, jwe)
        case CiphertextFormat.KEYSEALER:
            yield Finding("kid is the CKA_ID in hexadecimal", "")
            yield from _zero_padded(header, jwe)
        case CiphertextFormat.UNKNOWN:
            yield Finding("the header must name alg, enc and the key (kid), and does not", NOT_OURS, True)
    if known is not CiphertextFormat.UNKNOWN and not jwe.ciphertext_bytes:
        yield Finding(
            "the ciphertext is empty: it was cut, or an empty plaintext was encrypted, which kube-apiserver never does"
        )


def _native(header: Header, jwe: JweReport) -> Iterator[Finding]:
    if header.alg not in ("dir", "RSA-OAEP-256"):
        yield Finding(f"kmsd reads alg dir and RSA-OAEP-256, this has {header.alg[:40]!r}", NOT_OURS, True)
    if jwe.enc in GCM:
        # A token that chooses its IVs itself makes them of 16 bytes.
        yield from _lengths(jwe, iv=16 if jwe.iv_bytes == 16 else 12, tag=16)
    elif jwe.enc in CBC_TAGS:
        yield from _lengths(jwe, iv=16, tag=CBC_TAGS[jwe.enc])
        if not jwe.ciphertext_bytes or jwe.ciphertext_bytes % 16:
            yield Finding(
                f"truncated: the ciphertext must be whole blocks of 16 bytes, and has {jwe.ciphertext_bytes}",
                RESTORE,
                True,
            )
    else:
        yield Finding(
            f"kmsd reads enc {', '.join(sorted(GCM | CBC_TAGS.keys()))}, this has {jwe.enc[:40]!r}", NOT_OURS, True
        )


def _k8s_kms_plugin_gcm(jwe: JweReport) -> Iterator[Finding]:
    yield Finding("the IV has 16 bytes: this tells it from kmsd's own format, which has 12")
    yield Finding(
        "kid is a label, not a key id: the key is the one that held it when this was written",
        "kmsd tries the key that holds the label and every one that held it before; the tag decides",
    )
    yield from _lengths(jwe, iv=16, tag=16)
    if not jwe.kid:
        yield Finding("the header must name the key (kid), and does not", NOT_OURS, True)


def _lengths(jwe: JweReport, *, iv: int, tag: int) -> Iterator[Finding]:
    if jwe.iv_bytes != iv:
        yield Finding(f"the IV of {jwe.enc} has {iv} bytes, this has {jwe.iv_bytes}", NOT_OURS, True)
    if jwe.tag_bytes != tag:
        cut = "truncated: " if jwe.tag_bytes < tag else ""
        yield Finding(f"{cut}the tag of {jwe.enc} has {tag} bytes, this has {jwe.tag_bytes}", RESTORE, True)


def _zero_padded(header: Header, jwe: JweReport) -> Iterator[Finding]:
    """Yield what is wrong with a ciphertext of AES-CBC whose plaintext was padded with zeros to the next block, by a
    whole block where none would be needed."""
    yield from _lengths(jwe, iv=16, tag=32)
    length = _plaintext_length(header)
    if length is None:
        yield Finding("_thales_aad must be the plaintext's length, 8 bytes in base64url, and is not", NOT_OURS, True)
    elif jwe.ciphertext_bytes != (length // 16 + 1) * 16:
        yield Finding(
            f"the ciphertext has {jwe.ciphertext_bytes} bytes, where a plaintext of {length} needs"
            f" {(length // 16 + 1) * 16}: truncated or altered",
            RESTORE,
            True,
        )


def _plaintext_length(header: Header) -> int | None:
    text = json.loads(header.raw).get("_thales_aad")
    if not isinstance(text, str) or len(text) != 11 or not text.isascii():
        return None
    return int.from_bytes(decode(text.encode(), "length"), "big") if _canonical(text.encode()) else None
