"""What kmsd tells its clients: plain frozen data. Knows neither grpc nor protobuf, nor how anything is shown.

Text that kmsd did not give is empty; times are aware, in UTC, and None if unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ServingState(StrEnum):
    SERVING = "serving"
    DEGRADED = "degraded"
    """Serving, with something an operator should look at."""
    DOWN = "down"
    UNKNOWN = "unknown"
    """A state that a newer kmsd has and this client does not know."""


class KeyState(StrEnum):
    WRITE = "write"
    """Encrypts: holds the write label."""
    READABLE = "readable"
    """Decrypts what names it."""
    PENDING = "pending"
    """Made for a rotation that has not moved the write label yet."""
    UNUSABLE = "unusable"
    COMPANION = "companion"
    """Serves beside an AES key: an HMAC key."""
    UNKNOWN = "unknown"


class KeyType(StrEnum):
    AES = "aes"
    HMAC = "hmac"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Problem:
    message: str
    hint: str
    fatal: bool
    """True if it keeps kmsd from serving; false for a warning."""


@dataclass(frozen=True)
class Key:
    """One key on a token. Its identity is `key_id`; `label` is the role it has now."""

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


@dataclass(frozen=True)
class Token:
    """The token that kmsd uses."""

    module: str
    label: str
    serial: str
    model: str
    manufacturer: str
    slot_id: int
    up: bool


@dataclass(frozen=True)
class Sessions:
    open: int
    configured: int
    busy: int
    stuck: int
    """Busy for longer than the stuck limit."""
    queued: int


@dataclass(frozen=True)
class Probe:
    """The background encrypt and decrypt that healthz is earned with."""

    last_success: datetime | None
    round_trip_ms: float


@dataclass(frozen=True)
class Listener:
    socket: str
    apis: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    version: str
    state: ServingState
    healthz: str
    """Exactly what KMS v2 Status answers: "ok" or the reason why not."""
    hint: str
    started: datetime | None
    write_label: str
    write_key: Key | None
    token: Token
    sessions: Sessions
    probe: Probe
    listeners: tuple[Listener, ...]
    problems: tuple[Problem, ...]
    keys: int
    write_format: str

    @property
    def healthy(self) -> bool:
        return self.healthz == "ok"


@dataclass(frozen=True)
class Slot:
    slot_id: int
    description: str
    manufacturer: str
    token_present: bool
    token_label: str
    token_serial: str
    token_model: str
    token_manufacturer: str
    flags: tuple[str, ...]
    """CKF_* of CK_TOKEN_INFO in words."""
    pin_warnings: tuple[str, ...]
    in_use: bool


@dataclass(frozen=True)
class GeneratedKey:
    key: Key
    created: bool
    """False if the key was there already and `if_not_exists` asked for it."""


@dataclass(frozen=True)
class KmsStatus:
    """What Status (v2) or Version (v1beta1) answered; what the API in question lacks is empty."""

    version: str
    healthz: str
    key_id: str
    runtime_name: str
    runtime_version: str


@dataclass(frozen=True)
class Encrypted:
    """What v2 needs to decrypt again; v1beta1 fills in the ciphertext alone."""

    ciphertext: bytes
    key_id: str = ""
    annotations: Mapping[str, bytes] = field(default_factory=dict)
