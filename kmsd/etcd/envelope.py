"""One value as etcd holds it: what kube-apiserver put around it, and which key it needs. Pure.

Sources: k8s.io/apiserver, `envelope.go` (v1) and `kmsv2/envelope.go` (v2) below pkg/storage/value/encrypt/envelope,
and the prefixes in pkg/server/options/encryptionconfig. Whatever the bytes, the answer is one of the classes below,
never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from kmsd.api.k8s.encrypted_object_pb2 import EncryptedDEKSourceType, EncryptedObject
from kmsd.formats import keyid
from kmsd.formats.ciphertext import KEY_NAME_MAX, CiphertextFormat, KeyName, Sealed, identify

PREFIX: Final = b"k8s:enc:"
KMS: Final = PREFIX + b"kms:"
PROVIDER_MAX: Final = 1024
"""Octets of a provider's name; kube-apiserver sets no bound."""
DEK_MAX: Final = 1024
"""Octets of an encrypted data key in v2 (its encryptedDEKSourceMaxSize)."""
ANNOTATIONS_MAX: Final = 64
"""Names of annotations that are told."""

_V1_BODY_LEAST: Final = 12 + 16
"""Nonce and tag of AES-GCM; the AES-CBC of older releases needs more."""


class Encoding(StrEnum):
    """The ways in which a value that is not encrypted is written."""

    PROTOBUF = "protobuf"
    JSON = "json"
    OTHER = "other"
    EMPTY = "empty"


class Transform(StrEnum):
    """The providers of kube-apiserver that need no KMS."""

    AESCBC = "aescbc"
    AESGCM = "aesgcm"
    SECRETBOX = "secretbox"
    IDENTITY = "identity"


@dataclass(frozen=True)
class KmsValue:
    """A value behind a KMS provider. version: "v1" or "v2". The bytes are for whoever looks on, and not shown.

    key_id, source_type, annotations: of v2, else empty. data_bytes: of the encrypted object.
    """

    version: str
    provider: str
    encrypted_dek: bytes = field(repr=False)
    data_bytes: int
    key_id: str = ""
    source_type: str = ""
    annotations: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        return f"k8s:enc:kms:{self.version}:"


@dataclass(frozen=True)
class Transformed:
    """A value that kube-apiserver itself encrypted; no key of kmsd's is needed."""

    transform: Transform


@dataclass(frozen=True)
class Plain:
    """A value that is not encrypted."""

    encoding: Encoding


@dataclass(frozen=True)
class Damaged:
    """A value that looks encrypted and cannot be understood. reason: of a small fixed set; no full stop. version,
    provider: as far as they can be read."""

    reason: str
    version: str = ""
    provider: str = ""


Value = KmsValue | Transformed | Plain | Damaged


@dataclass(frozen=True)
class Need:
    """The key that a KMS value needs. key: None if that cannot be told, and then `reason` says why; such a value may
    need any key. label: what its ciphertext calls the key beside that; empty if it does not."""

    format: CiphertextFormat
    key: KeyName | None
    reason: str = ""
    label: str = ""


def parse(value: bytes) -> Value:
    """Take one value apart."""
    if value.startswith(KMS):
        return _kms(value)
    if value.startswith(PREFIX):
        return _transformed(value)
    if not value:
        return Plain(Encoding.EMPTY)
    if PREFIX.startswith(value):
        return Damaged("cut short within its prefix")
    if value.startswith(b"k8s\0"):
        return Plain(Encoding.PROTOBUF)
    return Plain(Encoding.JSON if value[:64].lstrip()[:1] == b"{" else Encoding.OTHER)


def _transformed(value: bytes) -> Value:
    name, colon, _ = value[len(PREFIX) : len(PREFIX) + 32].partition(b":")
    if not colon:
        return Damaged("cut short within its prefix" if len(value) < len(PREFIX) + 32 else "an unknown transform")
    try:
        return Transformed(Transform(name.decode("ascii", "replace")))
    except ValueError:
        return Damaged("an unknown transform")


def _kms(value: bytes) -> KmsValue | Damaged:
    version, colon, _ = value[len(KMS) : len(KMS) + 16].partition(b":")
    if version not in (b"v1", b"v2") or not colon:
        short = not colon and len(value) < len(KMS) + 16
        return Damaged("cut short within its prefix" if short else "an unknown version of the KMS envelope")
    start = len(KMS) + len(version) + 1
    end = value.find(b":", start, start + PROVIDER_MAX + 1)
    if end < 0:
        short = len(value) <= start + PROVIDER_MAX
        return Damaged("cut short within its prefix" if short else "a provider's name is too long", version.decode())
    provider = value[start:end].decode(errors="backslashreplace")
    body = value[end + 1 :]
    return _v1(provider, body) if version == b"v1" else _v2(provider, body)


def _v1(provider: str, body: bytes) -> KmsValue | Damaged:
    """Parse a 2-byte length, big endian, the encrypted data key, and the object."""
    if len(body) < 2:
        return Damaged("cut short before the encrypted data key", "v1", provider)
    length = int.from_bytes(body[:2], "big")
    rest = len(body) - 2 - length
    if not length:
        return Damaged("there is no encrypted data key", "v1", provider)
    if rest < 0:
        return Damaged("cut short within the encrypted data key", "v1", provider)
    if rest < _V1_BODY_LEAST:
        return Damaged("cut short within the encrypted object", "v1", provider)
    return KmsValue("v1", provider, body[2 : 2 + length], rest)


def _v2(provider: str, body: bytes) -> KmsValue | Damaged:
    """Parse an EncryptedObject within the bounds that kube-apiserver holds it to when it reads."""
    try:
        found = EncryptedObject.FromString(body)
    except DecodeError:
        return Damaged("not an EncryptedObject, or cut short", "v2", provider)
    if not found.keyID or len(found.keyID.encode()) > KEY_NAME_MAX:
        return Damaged("there is no key id" if not found.keyID else "the key id is too long", "v2", provider)
    if not 0 < len(found.encryptedDEKSource) <= DEK_MAX:
        missing = not found.encryptedDEKSource
        return Damaged("there is no encrypted data key" if missing else "too long a data key", "v2", provider)
    if not found.encryptedData:
        return Damaged("there is no encrypted object", "v2", provider)
    try:
        kind = EncryptedDEKSourceType.Name(found.encryptedDEKSourceType)
    except ValueError:
        return Damaged("an unknown kind of data key", "v2", provider)
    return KmsValue(
        "v2",
        provider,
        found.encryptedDEKSource,
        len(found.encryptedData),
        found.keyID,
        kind,
        tuple(sorted(found.annotations)[:ANNOTATIONS_MAX]),
    )


def need(value: KmsValue) -> Need:
    """Return which key opens a KMS value: in v2 the one that the envelope names, in v1 the one that the ciphertext
    names."""
    if value.version == "v1":
        return _need_v1(identify(value.encrypted_dek))
    sealed = _identified(value.encrypted_dek)
    named = KeyName(value.key_id)
    if sealed.key is None:
        return Need(sealed.format, named)
    if sealed.key.text == value.key_id:
        # A plugin that names keys by label does so in both places.
        return Need(sealed.format, sealed.key)
    if keyid.alike(sealed.key.text, value.key_id):
        return Need(sealed.format, named)
    if not keyid.is_answered(value.key_id) and sealed.format in (
        CiphertextFormat.NATIVE,
        CiphertextFormat.K8S_KMS_PLUGIN_GCM,
    ):
        # KeySealer calls its key by CKA_ID in the envelope and by label in the ciphertext, behind an IV of 16 or 12
        # bytes: with 12 it looks like kmsd's own format.
        return Need(CiphertextFormat.K8S_KMS_PLUGIN_GCM, named, label=sealed.key.text)
    if sealed.key.by_label or sealed.format is not CiphertextFormat.NATIVE:
        # A label beside a key id is what kmsd itself writes in k8s-kms-plugin's format.
        return Need(sealed.format, named)
    return Need(sealed.format, None, "the envelope and its data key name different keys")


def _need_v1(sealed: Sealed) -> Need:
    if sealed.key is not None:
        return Need(sealed.format, sealed.key)
    if sealed.format is CiphertextFormat.UNKNOWN:
        return Need(sealed.format, None, "the encrypted data key is of no format that is known")
    return Need(sealed.format, None, "the encrypted data key names no key")


# In v2 many objects share the bytes of one encrypted seed, and they are few.
_identified = lru_cache(maxsize=1024)(identify)
