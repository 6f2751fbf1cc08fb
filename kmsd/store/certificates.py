"""The certificates of the store: what the CA has issued and revoked, its own, and the numbers of its CRLs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast, get_args

from sqlalchemy import ColumnElement, func, select, update

from kmsd.ca.ledger import Issued, Reason, no_such
from kmsd.errors import AlreadyExists, Conflict
from kmsd.store.database import Database
from kmsd.store.schema import AuthorityRow, CertificateRow, CounterRow

CRL: Final = "crl"
"""The counter of CRLs, which the first migration makes."""


class StoredLedger:
    """The memory of the CA in the store. See `kmsd.ca.ledger.Ledger`, whose methods these are.

    Every method raises Unavailable while the store cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, issued: Issued) -> None:
        """Remember a certificate, for good. Raises Conflict if its number is taken."""
        row = CertificateRow(
            serial=issued.serial_hex,
            issuer=issued.issuer.hex(),
            node=issued.node,
            tenant=issued.tenant,
            key_sha256=issued.key_sha256.hex(),
            not_before=_seconds(issued.not_before),
            not_after=_seconds(issued.not_after),
            der=issued.der,
            issued_at=_seconds(datetime.now(UTC)),
            revoked_at=0,
            reason="",
        )
        try:
            with self._database.writing() as session:
                session.add(row)
        except AlreadyExists as error:
            raise Conflict(
                f"a certificate with the number {issued.serial_hex} was issued before", "try again"
            ) from error

    def find(self, serial: int) -> Issued | None:
        """Return the certificate with this number, or None."""
        with self._database.reading() as session:
            row = session.get(CertificateRow, f"{serial:x}")
            return _issued(row) if row is not None else None

    def of_key(self, key_sha256: bytes) -> Sequence[Issued]:
        """Return the certificates that have this public key."""
        return self._where(CertificateRow.key_sha256 == key_sha256.hex())

    def of_node(self, node: str, tenant: str = "") -> Sequence[Issued]:
        """Return the certificates of a node, the newest first. tenant: of this tenant alone; empty: of any."""
        found = CertificateRow.node == node
        return self._where(found & (CertificateRow.tenant == tenant) if tenant else found)

    def latest(self, most: int, after: int | None = None, node: str = "", tenant: str = "") -> Sequence[Issued]:
        """Return the certificates that were issued last, at most so many, the newest first. after: go on after the one
        with this number. node, tenant: of these alone; empty: of any. Raises NotFound if that number is none."""
        wanted = CertificateRow.serial != ""
        if node:
            wanted &= CertificateRow.node == node
        if tenant:
            wanted &= CertificateRow.tenant == tenant
        if after is not None:
            serial = f"{after:x}"
            with self._database.reading() as session:
                moment = session.scalar(select(CertificateRow.issued_at).where(CertificateRow.serial == serial))
            if moment is None:
                raise no_such(after)
            same = (CertificateRow.issued_at == moment) & (CertificateRow.serial > serial)
            # The first part says no more than the second, and is what the index is searched by.
            wanted &= (CertificateRow.issued_at <= moment) & ((CertificateRow.issued_at < moment) | same)
        return self._where(wanted, most)

    def revoke(self, serial: int, at: datetime, reason: Reason) -> Issued:
        """Revoke a certificate; what is revoked already stays as it is. Raises NotFound."""
        this = (CertificateRow.serial == f"{serial:x}") & (CertificateRow.revoked_at == 0)
        with self._database.writing() as session:
            session.execute(update(CertificateRow).where(this).values(revoked_at=_seconds(at), reason=reason))
            row = session.get(CertificateRow, f"{serial:x}")
            if row is None:
                raise no_such(serial)
            return _issued(row)

    def revoked(self, since: datetime) -> Sequence[Issued]:
        """Return the revoked certificates that ended after `since`, or have not ended yet."""
        return self._where((CertificateRow.revoked_at > 0) & (CertificateRow.not_after > _seconds(since)))

    def last_end(self, issuer: bytes) -> datetime | None:
        """Return when the last of the certificates ends that this CA (its subject key identifier) signed and that are
        not revoked; None if there is none."""
        of_it = (CertificateRow.issuer == issuer.hex()) & (CertificateRow.revoked_at == 0)
        with self._database.reading() as session:
            end = session.scalar(select(func.max(CertificateRow.not_after)).where(of_it))
            return _time(end) if end is not None else None

    def next_crl_number(self) -> int:
        """Return a number that is greater than all that were returned before."""
        grown = update(CounterRow).where(CounterRow.name == CRL).values(value=CounterRow.value + 1)
        with self._database.writing() as session:
            return session.execute(grown.returning(CounterRow.value)).scalar_one()

    def keep_authority(self, der: bytes) -> None:
        """Remember a certificate of the CA itself, or of one above it."""
        digest = hashlib.sha256(der).hexdigest()
        try:
            with self._database.writing() as session:
                if session.get(AuthorityRow, digest) is None:
                    place = session.scalar(select(func.max(AuthorityRow.place))) or 0
                    session.add(AuthorityRow(sha256=digest, place=place + 1, der=der))
        except AlreadyExists:
            pass  # another kmsd was quicker

    def authorities(self) -> Sequence[bytes]:
        """Return the certificates that `keep_authority` was given, as DER, in that order, each once."""
        with self._database.reading() as session:
            return list(session.scalars(select(AuthorityRow.der).order_by(AuthorityRow.place, AuthorityRow.sha256)))

    def _where(self, condition: ColumnElement[bool], most: int | None = None) -> Sequence[Issued]:
        newest_first = CertificateRow.issued_at.desc(), CertificateRow.serial
        with self._database.reading() as session:
            rows = session.scalars(select(CertificateRow).where(condition).order_by(*newest_first).limit(most))
            return [_issued(row) for row in rows]


def _issued(row: CertificateRow) -> Issued:
    return Issued(
        int(row.serial, 16),
        bytes.fromhex(row.issuer),
        row.node,
        row.tenant,
        bytes.fromhex(row.key_sha256),
        _time(row.not_before),
        _time(row.not_after),
        row.der,
        _time(row.revoked_at) if row.revoked_at else None,
        cast("Reason", row.reason) if row.reason in get_args(Reason) else None,
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
