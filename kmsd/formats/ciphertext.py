"""Tell what a KMS plugin's ciphertext says of itself: which format it has, and which key it names.

For looking at, not for decrypting: nothing here is verified, and anything that is no JWE is a format of its own.
Pure; bounded by what it is given.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from kmsd.formats import keyid
from kmsd.formats.jwe import GCM, MAX_HEADER, read_json
from kmsd.formats.k8s_kms_plugin import IV_BYTES

KEY_NAME_MAX: Final = 1024
"""The most characters of a key's name; kube-apiserver takes no longer key ids."""
HEADER_BEGINS: Final = re.compile(rb'\{\s*"(?:alg|enc|kid|hkid|typ|cty|zip|crit|_thales_aad)"')
"""The beginning of the header of a JWE; an object of Kubernetes begins with kind, apiVersion or metadata."""

_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


class CiphertextFormat(StrEnum):
    """The formats of a KMS plugin's ciphertext, as people are told them."""

    NATIVE = "native"
    K8S_KMS_PLUGIN_GCM = "k8s-kms-plugin aes-gcm"
    K8S_KMS_PLUGIN_CBC = "k8s-kms-plugin aes-cbc"
    KEYSEALER = "keysealer"
    UNKNOWN = "unknown"
    """A value that is no JWE, or a JWE that none of the known programs writes."""


@dataclass(frozen=True)
class KeyName:
    """The name by which a ciphertext calls its key. by_label: text is a CKA_LABEL, which may have moved since."""

    text: str
    by_label: bool = False


@dataclass(frozen=True)
class Header:
    """The members of a JWE's protected header (RFC 7515, 4.1) that tell formats apart; empty where they are missing
    or no text. raw: the JSON as it is."""

    raw: bytes
    alg: str
    enc: str
    kid: str
    hkid: str
    """The MAC key of a pair whose two keys have ids of their own."""
    has_plaintext_length: bool
    """Whether it has `_thales_aad`, the plaintext's length, as k8s-kms-plugin's aes-cbc and its successor write it."""
    members: frozenset[str]
    repeats: bool
    """Whether a member occurs twice."""


@dataclass(frozen=True)
class Sealed:
    """A ciphertext's format and key. key: None if the ciphertext names none."""

    format: CiphertextFormat
    key: KeyName | None


NOT_SEALED: Final = Sealed(CiphertextFormat.UNKNOWN, None)


def identify(ciphertext: bytes) -> Sealed:
    """Return the format and the key of one ciphertext. Never raises."""
    segments = ciphertext.split(b".", 5)
    if len(segments) != 5:
        return NOT_SEALED
    header = read_header(segments[0])
    if header is None:
        return NOT_SEALED
    return classify(header, decoded_length(segments[2]))


def classify(header: Header, iv_bytes: int) -> Sealed:
    """Return the format and the key, by the header and the length of the IV, as the native GCM and k8s-kms-plugin's
    differ in nothing else."""
    kid = header.kid
    if header.has_plaintext_length:
        return (
            Sealed(CiphertextFormat.KEYSEALER, KeyName(_hex_key_id(kid)))
            if kid
            else Sealed(CiphertextFormat.K8S_KMS_PLUGIN_CBC, None)
        )
    if not header.alg or not header.enc:
        return NOT_SEALED
    # k8s-kms-plugin writes A256GCM whatever its key's size; its successor the one of the size.
    if header.alg == "dir" and header.enc in GCM and iv_bytes == IV_BYTES:
        return Sealed(CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName(kid, by_label=True) if kid else None)
    return Sealed(CiphertextFormat.NATIVE, KeyName(kid)) if kid else NOT_SEALED


def decoded_length(segment: bytes) -> int:
    """Return how many octets a segment of base64url without padding holds (RFC 7515, 2)."""
    return len(segment) * 3 // 4


@lru_cache(maxsize=256)
def read_header(segment: bytes) -> Header | None:
    """Read a JWE's first segment; None if it is none. Remembered: what one key wrote begins with the same bytes."""
    if not 0 < len(segment) <= MAX_HEADER or not _BASE64URL.fullmatch(segment):
        return None
    try:
        raw = urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
        members, twice = read_json(raw)
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None

    def text(name: str) -> str:
        value = members.get(name)
        return value if isinstance(value, str) and len(value) <= KEY_NAME_MAX and _encodable(value) else ""

    return Header(
        raw=raw,
        alg=text("alg"),
        enc=text("enc"),
        kid=text("kid"),
        hkid=text("hkid"),
        has_plaintext_length="_thales_aad" in members,
        members=frozenset(members),
        repeats=twice is not None,
    )


def _encodable(text: str) -> bool:
    """Return whether UTF-8 can hold the text: JSON can spell half of a surrogate pair, which it cannot."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _hex_key_id(kid: str) -> str:
    """Return the key id of a CKA_ID that is written in hexadecimal digits."""
    return keyid.text(bytes.fromhex(kid)) if _HEX.fullmatch(kid) else kid
