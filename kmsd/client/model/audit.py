"""The audit and its proof."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class AuditRecord:
    """A record of the audit. seq: in its chain. kind: "admin", "event"; or "kms": in the chain of the calls of the KMS
    APIs. line: as it is in the file. reason: the sentence that the caller got; empty if nothing failed, and for
    events. tenant: name of the one that it concerns; empty for none."""

    seq: int
    time: datetime | None
    kind: str
    action: str
    caller: str
    key_id_sha256: str
    outcome: str
    latency_ms: float
    detail: str
    line: str
    reason: str = ""
    tenant: str = ""


@dataclass(frozen=True)
class AuditRecords:
    """A batch of records. dropped: how many were lost before them."""

    records: tuple[AuditRecord, ...]
    dropped: int


@dataclass(frozen=True)
class AuditChain:
    """The proof of one chain. name: "main" for admin actions and events, "kms" for the calls of the KMS APIs. head:
    hash of the last record. problem: what is wrong, in which file and line; empty if intact."""

    name: str
    intact: bool
    records: int
    first_seq: int
    last_seq: int
    head: str
    files: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class AuditVerdict:
    """The proof of the audit. intact, problem: of all chains. The fields between: of the first. chains: at least
    one."""

    intact: bool
    records: int
    first_seq: int
    last_seq: int
    head: str
    files: tuple[str, ...]
    problem: str
    chains: tuple[AuditChain, ...]


@dataclass(frozen=True)
class Tampering:
    """A change that another program made to the audit. seq: of the record that tells it. text: what, and when."""

    time: datetime | None
    seq: int
    text: str


@dataclass(frozen=True)
class Acknowledgement:
    """The tampering that was put away, or would be. seen: oldest first, the last 20. acknowledged: whether they are put
    away."""

    seen: tuple[Tampering, ...]
    acknowledged: bool
