"""The tokens that are there, and what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class UnlockedToken:
    """A token that is up. token: its name in kmsd's configuration. logged_in: false if it was up already."""

    token: str
    token_label: str
    logged_in: bool


@dataclass(frozen=True)
class Slot:
    """A slot and the token in it."""

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
    module: str = ""
    name: str = ""
    """Name of the token in kmsd's configuration, if it is in use."""
    sessions: int | None = None
    sessions_max: int | None = None
    rw_sessions: int | None = None
    rw_sessions_max: int | None = None
    """Open sessions of all programs, and how many there may be; None if the token does not tell."""


@dataclass(frozen=True)
class Mechanism:
    """A mechanism that a token lists. name: as "CKM_AES_GCM". min_key, max_key: in the mechanism's own unit (bits or
    bytes). flags: CKF_* in words. used_for: what kmsd does with it here; may be empty."""

    name: str
    type: int
    min_key: int
    max_key: int
    flags: tuple[str, ...]
    used_for: str


class Outcome(StrEnum):
    """The outcomes of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """A check of a probe. name: a stable word for programs. title: for people. seen: what happened. fix: what to do, or
    empty."""

    name: str
    title: str
    outcome: Outcome
    seen: str
    fix: str


@dataclass(frozen=True)
class Verdict:
    """The way in which kmsd can write on a token. algorithm: "aes-gcm", "aes-cbc", "rsa-oaep" or "none". enc: of the
    JWE, alg for RSA-OAEP; empty for none. text: why."""

    algorithm: str
    enc: str
    text: str
    hint: str
    cbc_from_ecb: bool
    """AES-CBC is built of single blocks."""


@dataclass(frozen=True)
class Abilities:
    """The operations that were found to work, whatever the token lists. What was not tried counts as not working."""

    gcm_iv_sizes: tuple[int, ...]
    """Bytes of IVs that the caller may choose."""
    gcm_iv_by_token: bool
    cbc: bool
    cbc_pad: bool
    ecb: bool
    hmac_sha256: bool
    hmac_sha512: bool
    hmac_empty: bool
    """The empty message has a MAC."""
    hmac_longest: int
    """Bytes of the longest message that was taken, of those tried."""
    oaep_sha256: bool
    generate_aes: bool
    generate_hmac: bool
    relabel: bool
    sessions: int
    """Number of sessions, of those asked for, that could be opened at once."""
    foreign_changes: str
    """The time at which keys are seen that other programs make."""


@dataclass(frozen=True)
class Speed:
    """The speed of one operation of a token. ms: alone, the median. per_second: what the threads did together."""

    operation: str
    ms: float
    per_second: float
    threads: int


@dataclass(frozen=True)
class Diagnosis:
    """The result of probing a token. token: its name in kmsd's configuration. provider: what kind of token it is taken
    for; provider_title: in words. outcome: the worst of the checks. seconds: that it took."""

    token: str
    token_label: str
    up: bool
    module: str
    library: str
    provider: str
    provider_title: str
    outcome: Outcome
    checks: tuple[Check, ...]
    verdict: Verdict
    abilities: Abilities
    speeds: tuple[Speed, ...]
    seconds: float
