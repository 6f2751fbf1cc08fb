"""The tables of the store. Another shape of them is a new file in `migrations/versions`, which a test compares."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAME = 255
"""Characters of a name at the most."""


class Base(DeclarativeBase):
    """The base of all tables."""


class TokenRow(Base):
    """A row of `EnrolmentToken`."""

    __tablename__ = "enrolment_tokens"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    node: Mapped[str] = mapped_column(String(NAME))
    tenant: Mapped[str] = mapped_column(String(64))
    expires: Mapped[int] = mapped_column(BigInteger)
    uses: Mapped[int]
    uses_left: Mapped[int]
    made_by: Mapped[str] = mapped_column(String(NAME))
    made_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int] = mapped_column(BigInteger)


class CertificateRow(Base):
    """A row of `kmsd.ca.ledger.Issued`. serial, issuer, key_sha256: in lower hexadecimal. revoked_at: 0 while it is in
    force."""

    __tablename__ = "certificates"
    __table_args__ = (
        Index("certificates_key", "key_sha256"),
        Index("certificates_node", "node"),
        Index("certificates_revoked", "revoked_at"),
        Index("certificates_issued", "issued_at"),
    )

    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    issuer: Mapped[str] = mapped_column(String(128))
    node: Mapped[str] = mapped_column(String(NAME))
    tenant: Mapped[str] = mapped_column(String(64))
    key_sha256: Mapped[str] = mapped_column(String(64))
    not_before: Mapped[int] = mapped_column(BigInteger)
    not_after: Mapped[int] = mapped_column(BigInteger)
    der: Mapped[bytes] = mapped_column(LargeBinary)
    issued_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(32))


class RequestRow(Base):
    """A row of `EnrolmentRequest`."""

    __tablename__ = "enrolment_requests"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    public_key_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    csr: Mapped[bytes] = mapped_column(LargeBinary)
    subject: Mapped[str] = mapped_column(String(NAME))
    label: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    node: Mapped[str] = mapped_column(String(NAME))
    tenant: Mapped[str] = mapped_column(String(64))
    decided_by: Mapped[str] = mapped_column(String(NAME))
    decided_at: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(NAME))


class AuthorityRow(Base):
    """A certificate of the CA, or of one above it. place: its place among them."""

    __tablename__ = "authorities"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[int]
    der: Mapped[bytes] = mapped_column(LargeBinary)


class CounterRow(Base):
    """A number that only grows."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
