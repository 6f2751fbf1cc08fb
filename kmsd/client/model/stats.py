"""The traffic and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kmsd.client.model.status import Sessions


@dataclass(frozen=True)
class Second:
    """A second of the KMS APIs. time: its beginning."""

    time: datetime
    requests: int
    errors: int
    encrypts: int
    decrypts: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class CallCount:
    """The number of calls that ended alike."""

    api: str
    method: str
    code: str
    count: int


@dataclass(frozen=True)
class Latency:
    """The latency of a method, in milliseconds. api: empty for an operation of the token, which `method` names."""

    api: str
    method: str
    count: int
    sum_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class KeyUse:
    """The uses of a key since kmsd started."""

    key_id: str
    key_id_sha256: str
    encrypts: int
    decrypts: int
    last_used: datetime | None


@dataclass(frozen=True)
class StatsFrame:
    """The statistics at one moment. seconds: whole seconds since the last frame, oldest first; in the first frame, the
    history. The rest counts since kmsd started. quantile_error: how far a quantile may be off, as a fraction."""

    time: datetime | None
    seconds: tuple[Second, ...]
    calls: tuple[CallCount, ...]
    latencies: tuple[Latency, ...]
    operations: tuple[Latency, ...]
    keys: tuple[KeyUse, ...]
    sessions: Sessions
    in_flight: int
    started: datetime | None
    quantile_error: float


@dataclass(frozen=True)
class Filter:
    """A choice of calls or audit records; each field that is set leaves less of them. failed: what ended with anything
    but OK. method: as "Decrypt". key_id_sha256: all digits or the first ones, at least 4. since: with a time zone.
    tenant: name of one."""

    failed: bool = False
    method: str = ""
    code: str = ""
    key_id_sha256: str = ""
    since: datetime | None = None
    tenant: str = ""


@dataclass(frozen=True)
class Request:
    """A call that ended. code: canonical status name, "OK" included. reason: the sentence that the caller got; empty if
    it succeeded. tenant: name of the one that called; empty for none."""

    time: datetime | None
    api: str
    method: str
    uid: str
    key_id_sha256: str
    code: str
    latency_ms: float
    reason: str = ""
    tenant: str = ""


@dataclass(frozen=True)
class Requests:
    """A batch of calls. dropped: calls that the stream was too slow to be told of, since the last batch."""

    requests: tuple[Request, ...]
    dropped: int
