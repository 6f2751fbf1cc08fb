"""Say what a certificate authority must remember: what it issued, what is revoked, and its own certificates."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, get_args

from kmsd.errors import Conflict, NotFound

Reason = Literal[
    "unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn"
]
"""The reasons for a revocation (RFC 5280, 5.3.1) that are for good and for a certificate that is no CA's."""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


@dataclass(frozen=True)
class Issued:
    """A certificate that was issued.

    serial: its number. issuer: subject key identifier of the CA that signed it. key_sha256: of its public key, as DER
    of SubjectPublicKeyInfo. der: the certificate. revoked_at: None while it is in force. reason: of the revocation.
    """

    serial: int
    issuer: bytes
    node: str
    tenant: str
    key_sha256: bytes
    not_before: datetime
    not_after: datetime
    der: bytes
    revoked_at: datetime | None = None
    reason: Reason | None = None

    @property
    def serial_hex(self) -> str:
        """The number in lower hexadecimal, as it is written everywhere."""
        return f"{self.serial:x}"


class Ledger(Protocol):
    """The memory of a certificate authority, which may wait for a disk or a database. Every method may raise
    Unavailable, and then has changed nothing; threads share it."""

    def record(self, issued: Issued) -> None:
        """Remember a certificate, for good, before anybody gets it. Raises Conflict if its number is taken."""

    def find(self, serial: int) -> Issued | None:
        """Return the certificate with this number, or None."""

    def of_key(self, key_sha256: bytes) -> Sequence[Issued]:
        """Return the certificates that have this public key."""

    def of_node(self, node: str, tenant: str = "") -> Sequence[Issued]:
        """Return the certificates of a node, the newest first. tenant: of this tenant alone; empty: of any."""

    def latest(self, most: int, after: int | None = None, node: str = "", tenant: str = "") -> Sequence[Issued]:
        """Return the certificates that were issued last, at most so many, the newest first. after: go on after the one
        with this number. node, tenant: of these alone; empty: of any. Raises NotFound if that number is none."""

    def revoke(self, serial: int, at: datetime, reason: Reason) -> Issued:
        """Revoke a certificate; what is revoked already stays as it is. Raises NotFound."""

    def revoked(self, since: datetime) -> Sequence[Issued]:
        """Return the revoked certificates that ended after `since`, or have not ended yet."""

    def last_end(self, issuer: bytes) -> datetime | None:
        """Return when the last of the certificates ends that this CA (its subject key identifier) signed and that are
        not revoked; None if there is none."""

    def next_crl_number(self) -> int:
        """Return a number that is greater than all that were returned before."""

    def keep_authority(self, der: bytes) -> None:
        """Remember a certificate of the CA itself, or of one above it."""

    def authorities(self) -> Sequence[bytes]:
        """Return the certificates that `keep_authority` was given, as DER, in that order, each once."""


class MemoryLedger:
    """A ledger that forgets everything when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._issued: dict[int, Issued] = {}
        self._authorities: dict[bytes, None] = {}
        self._crl_number = 0

    def record(self, issued: Issued) -> None:
        """Remember a certificate. Raises Conflict if its number is taken."""
        with self._lock:
            if issued.serial in self._issued:
                raise Conflict(f"a certificate with the number {issued.serial_hex} was issued before", "try again")
            self._issued[issued.serial] = issued

    def find(self, serial: int) -> Issued | None:
        """Return the certificate with this number, or None."""
        with self._lock:
            return self._issued.get(serial)

    def of_key(self, key_sha256: bytes) -> Sequence[Issued]:
        """Return the certificates that have this public key."""
        return [each for each in self._all() if each.key_sha256 == key_sha256]

    def of_node(self, node: str, tenant: str = "") -> Sequence[Issued]:
        """Return the certificates of a node, the newest first."""
        return [each for each in reversed(self._all()) if each.node == node and tenant in ("", each.tenant)]

    def latest(self, most: int, after: int | None = None, node: str = "", tenant: str = "") -> Sequence[Issued]:
        """Return the certificates that were issued last, the newest first. Raises NotFound."""
        found = self._all()[::-1]
        if after is not None:
            place = next((place for place, each in enumerate(found) if each.serial == after), None)
            if place is None:
                raise no_such(after)
            found = found[place + 1 :]
        return [each for each in found if node in ("", each.node) and tenant in ("", each.tenant)][:most]

    def revoke(self, serial: int, at: datetime, reason: Reason) -> Issued:
        """Revoke a certificate; what is revoked already stays as it is. Raises NotFound."""
        with self._lock:
            found = self._issued.get(serial)
            if found is None:
                raise no_such(serial)
            if found.revoked_at is None:
                found = self._issued[serial] = replace(found, revoked_at=at.astimezone(UTC), reason=reason)
            return found

    def revoked(self, since: datetime) -> Sequence[Issued]:
        """Return the revoked certificates that ended after `since`, or have not ended yet."""
        return [each for each in self._all() if each.revoked_at is not None and each.not_after > since]

    def last_end(self, issuer: bytes) -> datetime | None:
        """Return when the last of the certificates ends that this CA signed and that are not revoked."""
        return max(
            (each.not_after for each in self._all() if each.issuer == issuer and each.revoked_at is None), default=None
        )

    def next_crl_number(self) -> int:
        """Return the next number."""
        with self._lock:
            self._crl_number += 1
            return self._crl_number

    def keep_authority(self, der: bytes) -> None:
        """Remember a certificate of a CA."""
        with self._lock:
            self._authorities[der] = None

    def authorities(self) -> Sequence[bytes]:
        """Return the certificates of CAs."""
        with self._lock:
            return list(self._authorities)

    def _all(self) -> list[Issued]:
        with self._lock:
            return list(self._issued.values())


def no_such(serial: int) -> NotFound:
    """Return the error for a number that no certificate has."""
    return NotFound(f"no certificate {serial:x} was issued here", "kmsctl ca show lists them")
