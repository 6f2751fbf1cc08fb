"""Keys, and what was done to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class KeyState(StrEnum):
    """The states in which a key can be."""

    WRITE = "write"
    """Encrypts: holds the write label."""
    READABLE = "readable"
    """Decrypts what names it."""
    PENDING = "pending"
    """Made for a rotation that has not moved the write label yet."""
    UNUSABLE = "unusable"
    COMPANION = "companion"
    """Serves beside an AES key: an HMAC key."""
    ARCHIVED = "archived"
    """Retired: decrypts still, and may be destroyed."""
    SIGNING = "signing"
    """Signs, and encrypts nothing."""
    PLANTED = "planted"
    """A public object, which anybody may have made, with a label or an id of a key of kmsd's: never used."""
    UNKNOWN = "unknown"


class KeyType(StrEnum):
    """The types of keys."""

    AES = "aes"
    HMAC = "hmac"
    PAIR = "pair"
    """An AES key and an HMAC key with one CKA_ID: to be asked for, never in a list."""
    RSA = "rsa"
    EC = "ec"
    """An EC key pair, which signs."""
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Key:
    """A key on a token. Its identity is `key_id`; `label` is the role it has now."""

    label: str
    key_id: str
    key_id_sha256: str
    """Lower hex of SHA-256 over key_id, as kube-apiserver logs it."""
    type: KeyType
    bits: int
    state: KeyState
    unusable_reason: str
    unusable_hint: str
    can_encrypt: bool
    can_decrypt: bool
    can_sign: bool
    can_verify: bool
    sensitive: bool
    extractable: bool
    private: bool
    created: datetime | None
    token_label: str
    token: str = ""
    """Name of the token in kmsd's configuration; what calls take as `token`."""
    encrypts: int = 0
    decrypts: int = 0
    """The number of decryptions since kmsd started."""
    last_used: datetime | None = None
    enc: str = ""
    """JWE enc of what it writes; empty if it writes nothing."""
    tenant: str = ""
    """The name of the tenant that writes, or wrote, with it; empty for others."""
    local: bool | None = None
    """CKA_LOCAL: whether the key was generated on its token rather than imported; None if the token does not tell."""
    always_sensitive: bool | None = None
    """CKA_ALWAYS_SENSITIVE; None if the token does not tell."""
    never_extractable: bool | None = None
    """CKA_NEVER_EXTRACTABLE; None if the token does not tell."""
    purpose: str = ""
    """"kek": encrypts; "hmac": authenticates beside a key that does; "ca": signs certificates; "jwt": signs
    service account tokens. Empty if an older kmsd does not tell."""

    @property
    def seals(self) -> bool:
        """Whether data is encrypted under the key; it is not under an HMAC key, nor under one that signs."""
        return self.type in (KeyType.AES, KeyType.RSA) and self.purpose in ("", "kek")


@dataclass(frozen=True)
class KeyDetail:
    """A key with its companion: the HMAC key beside an AES key, or the other way round."""

    key: Key
    companion: Key | None


@dataclass(frozen=True)
class GeneratedKey:
    """A key that was made or found."""

    key: Key
    created: bool
    """False if the key was there already and `if_not_exists` asked for it."""
    companion: Key | None = None
    """The HMAC key of a pair."""


@dataclass(frozen=True)
class RelabelledKey:
    """A key that got another label."""

    key: Key
    previous_label: str


@dataclass(frozen=True)
class DestroyedKey:
    """A key that was destroyed. key, companion: as they were. destroyed: False in a dry run."""

    key: Key
    companion: Key | None
    destroyed: bool


@dataclass(frozen=True)
class Timing:
    """The time that rounds took, in milliseconds."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class KeyTest:
    """The result of trying a key."""

    key: Key
    rounds: int
    encrypt: Timing
    decrypt: Timing
