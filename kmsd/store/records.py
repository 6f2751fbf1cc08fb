"""The rows of the store in plain types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class EnrolmentToken:
    """A token with which a node gets its first certificate.

    id: its public part. salt, hash: of its secret part, by a slow hash. expires, made_at, revoked_at: Unix seconds; 0
    for not revoked. uses: how often it could be used at first. made_by: who made it.
    """

    id: str
    salt: bytes
    hash: bytes
    node: str
    tenant: str
    expires: int
    uses: int
    uses_left: int
    made_by: str
    made_at: int
    revoked_at: int = 0

    def usable(self, now: float) -> bool:
        """Return whether it can be used at this time, in Unix seconds."""
        return not self.revoked_at and self.uses_left > 0 and now < self.expires


class RequestState(StrEnum):
    """The state of a request that an operator decides on."""

    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request for a certificate that an operator decides on.

    id: the beginning of public_key_sha256. csr: DER. label: the tenant that was asked for in the path; may be empty.
    node, tenant: for whom it was approved. asked_at, decided_at, expires: Unix seconds.
    """

    id: str
    public_key_sha256: str
    csr: bytes
    subject: str
    label: str
    address: str
    asked_at: int
    expires: int
    state: RequestState = RequestState.WAITING
    node: str = ""
    tenant: str = ""
    decided_by: str = ""
    decided_at: int = 0
    reason: str = ""
