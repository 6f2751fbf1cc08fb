"""The signer of service account tokens in plain types. Imports nothing of ours.

The API of Kubernetes translates to it; who answers may hold the tokens, or ask another kmsd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Signed(NamedTuple):
    """A signature. header, signature: the first and the third segment of the token, in base64url. kid, key_id_sha256:
    of the key; the hash is empty where only another kmsd knows it."""

    header: str
    signature: str
    kid: str
    key_id_sha256: str = ""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that is published. der: its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7). excluded: whether it is left
    out of discovery documents, and so only verifies."""

    kid: str
    der: bytes
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The published keys. ms: when they changed last, in milliseconds since the epoch. refresh: seconds until they
    should be asked for again."""

    keys: tuple[PublicKey, ...]
    ms: int
    refresh: int


class JwtService(Protocol):
    """A signer of service account tokens (KEP-740). Every method raises KmsdError."""

    async def sign(self, claims: str, until: float) -> Signed:
        """Sign claims that have been looked at. claims: in base64url. until: the call's deadline, by the monotonic
        clock."""
        ...

    async def key_set(self, who: str, until: float) -> KeySet:
        """Return the published keys, of which there is one at least. who: asks, in words; empty for a caller with no
        kube-apiserver behind it, for which nobody waits."""
        ...

    async def longest(self, until: float) -> int:
        """Return the seconds for which a token may be in force at the most."""
        ...
