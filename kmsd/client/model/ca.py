"""The certificate authority of a key manager, and what it issues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kmsd.client.model.keys import Key


@dataclass(frozen=True)
class CaCertificate:
    """A certificate, of the CA or of a node. serial, sha256: lower hex. names: as "DNS:name" and "URI:uri". node,
    tenant: empty for a CA's. revoked: None while it is in force; reason: as in RFC 5280."""

    subject: str
    issuer: str
    serial: str
    sha256: str
    not_before: datetime | None
    not_after: datetime | None
    pem: str
    node: str = ""
    tenant: str = ""
    names: tuple[str, ...] = ()
    revoked: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class Ca:
    """The CA as it is now. state: "none", "waiting" (for its certificate) or "ready". following: a key that is to
    follow, and waits for its certificate. csr: PEM of the request of the key that waits. chain: what others need.
    issued: what it issued last, or to the node that was asked for. more: whether it issued others before.
    crl_signed, crl_next: None without a list of revocations. lifetime: seconds. names: as they are configured; empty:
    those of the tenants.
    """

    state: str
    key: Key | None
    certificate: CaCertificate | None
    following: Key | None
    csr: str
    chain: tuple[CaCertificate, ...]
    issued: tuple[CaCertificate, ...]
    crl_signed: datetime | None
    crl_next: datetime | None
    crl_revoked: int
    lifetime: float
    key_types: tuple[str, ...]
    names: tuple[str, ...]
    crl_url: str
    more: bool = False


@dataclass(frozen=True)
class NewCa:
    """A key of the CA that was made or given a certificate. certificate: None while it waits for one. csr: PEM of the
    request for it, empty if the key signed itself. chain: what others need now."""

    key: Key
    certificate: CaCertificate | None
    csr: str = ""
    chain: tuple[CaCertificate, ...] = ()


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that was issued, with those of the CA."""

    certificate: CaCertificate
    chain: tuple[CaCertificate, ...]


@dataclass(frozen=True)
class RevokedCertificates:
    """A number of certificates that were revoked. listed: whether the published list of revocations names them already;
    not_listed_because: why not."""

    revoked: tuple[CaCertificate, ...]
    listed: bool
    not_listed_because: str


@dataclass(frozen=True)
class Crl:
    """The lists of revocations, as DER, that of the key that issues first. signed, next: times."""

    crls: tuple[bytes, ...]
    signed: datetime | None
    next: datetime | None
