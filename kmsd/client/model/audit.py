"""The audit and its proof."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class AuditRecord:
    """kind: "admin", "kms" or "event". line: as it is in the file."""

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


@dataclass(frozen=True)
class AuditRecords:
    records: tuple[AuditRecord, ...]
    dropped: int


@dataclass(frozen=True)
class AuditVerdict:
    """head: hash of the last record. problem: what is wrong, in which file and line; empty if intact."""

    intact: bool
    records: int
    first_seq: int
    last_seq: int
    head: str
    files: tuple[str, ...]
    problem: str
