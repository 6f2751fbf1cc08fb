"""The keys of service account tokens, and who fetches those that are published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class JwtKey:
    """A key that signs service account tokens, is to sign them, or verifies them. kid: what tokens name it by; empty
    while the public key is not proven, as alg, pem and jwk are. state: "signing", "pending", "verifying", "trusted",
    "retired" or "unusable"; reason and hint say why, and what to do. label, key_id, token: empty for a trusted key.
    from_outside: whether it was made outside of its token. published_since, stopped, needed_until, trusted: None if
    there is no such time."""

    kid: str
    alg: str
    state: str
    published: bool
    proven: bool
    excluded_from_discovery: bool
    pem: str
    jwk: str
    label: str
    key_id: str
    token: str
    from_outside: bool
    published_since: datetime | None
    stopped: datetime | None
    needed_until: datetime | None
    trusted: datetime | None
    note: str
    signed: int
    last_signed: datetime | None
    reason: str
    hint: str


@dataclass(frozen=True)
class JwtFetcher:
    """A caller who asks for the published keys. who: in words. current: whether it has been answered the keys as they
    are now."""

    who: str
    first: datetime | None
    last: datetime | None
    current: bool


@dataclass(frozen=True)
class Jwt:
    """The signer of service account tokens as it is now. state: "ready", or "no-key", "waiting" or "away", and reason
    and hint say why. tenant: empty for kmsd's own socket; socket: empty for a tenant. max_token_expiration,
    refresh_hint: seconds. changed: when other keys were published last; None if none are. fetchers: the latest first.
    now: by kmsd's clock."""

    state: str
    reason: str
    hint: str
    tenant: str
    socket: str
    label: str
    issuers: tuple[str, ...]
    max_token_expiration: float
    refresh_hint: float
    keys: tuple[JwtKey, ...]
    changed: datetime | None
    fetchers: tuple[JwtFetcher, ...]
    now: datetime | None


@dataclass(frozen=True)
class PublishedJwtKey:
    """The key that is to sign next. key: None in a dry run without one. created: whether it was made now."""

    key: JwtKey | None
    created: bool


@dataclass(frozen=True)
class SwitchedJwtKey:
    """A key that signs. previous: the one that signed before; None if there is none. switched: False if the key signed
    already."""

    key: JwtKey
    previous: JwtKey | None
    switched: bool


@dataclass(frozen=True)
class ImportedJwtKey:
    """A private key that was taken in. key: None in a dry run. imported: False if it had been before. wrapped: whether
    the token got it wrapped rather than in the clear."""

    key: JwtKey | None
    imported: bool
    wrapped: bool


@dataclass(frozen=True)
class TrustedJwtKeys:
    """A number of public keys from outside that are published. added: how many of them were not before."""

    keys: tuple[JwtKey, ...]
    added: int
