"""The certificates of nodes: tokens and requests for them, and the database behind both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class EnrolmentToken:
    """A token with which a node gets its first certificate, without its secret. revoked: None if it was not. usable:
    whether it can be used now."""

    id: str
    node: str
    tenant: str
    created: datetime | None
    expires: datetime | None
    revoked: datetime | None
    uses: int
    uses_left: int
    made_by: str
    usable: bool


@dataclass(frozen=True)
class MadeEnrolmentToken:
    """A token that was just made. text: what the node shows; it is told this once."""

    token: EnrolmentToken
    text: str


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request for a certificate that an operator decides on. public_key_sha256: of its SubjectPublicKeyInfo. label:
    the tenant that it asks for. state: "waiting", "approved" or "denied". node, tenant: for whom it was approved."""

    id: str
    public_key_sha256: str
    subject: str
    label: str
    address: str
    asked: datetime | None
    expires: datetime | None
    state: str
    node: str
    tenant: str
    decided_by: str
    decided: datetime | None
    reason: str


@dataclass(frozen=True)
class StoreCheck:
    """The outcome of a look at the store. kind: "sqlite" or "postgresql". version, newest: of its tables, and what this
    kmsd knows. rows: number of rows of each table. problem: what the database's own check found."""

    kind: str
    name: str
    version: str
    newest: str
    rows: tuple[tuple[str, int], ...]
    problem: str


@dataclass(frozen=True)
class EnrolledNode:
    """The certificate that a node has now. what: "kept", "renewed" or "enrolled". serial: in lower hexadecimal.
    renew_at: when it is to be renewed."""

    what: str
    subject: str
    serial: str
    not_before: datetime
    not_after: datetime
    renew_at: datetime
    files: tuple[str, ...]
