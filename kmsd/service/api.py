"""The KMS service in plain types: what the two Kubernetes APIs have in common. Imports nothing of ours.

The APIs translate to it; who answers may hold the tokens, or ask another kmsd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Encrypted(NamedTuple):
    """An answer of Encrypt. ciphertext: what is stored. key_id, key_id_sha256: of the key that wrote it."""

    ciphertext: bytes
    key_id: str
    key_id_sha256: str


class Decrypted(NamedTuple):
    """An answer of Decrypt. key_id, key_id_sha256: of the key that wrote the ciphertext."""

    plaintext: bytes
    key_id: str
    key_id_sha256: str


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """An answer of Status. healthz: exactly "ok", or the reason. key_id: of the write key; empty if there never was
    one."""

    healthz: str
    key_id: str


class KmsService(Protocol):
    """A KMS plugin (KEP-3299). Every method raises KmsdError."""

    async def status(self) -> ServiceStatus:
        """Say whether the service works, and which key writes."""
        ...

    async def encrypt(self, plaintext: bytes, until: float) -> Encrypted:
        """Encrypt with the write key. until: the call's deadline, by the monotonic clock."""
        ...

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Decrypted:
        """Decrypt with the key that the ciphertext names; `key_id`, if it is given, must name it, too."""
        ...
