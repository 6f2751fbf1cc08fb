"""The admin API, kmsd.admin.v1: what goes on, as streams. Protobuf to domain and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.auditchain import Record
from kmsd.errors import InvalidRequest
from kmsd.hsm.pool import PoolView
from kmsd.observe.audit import MAX_BACKLOG, Audit
from kmsd.observe.feed import Feed
from kmsd.observe.stats import Frame, Latency, Second, Stats
from kmsd.rpc.admin_wire import API, sessions, table
from kmsd.rpc.call import Call, Table, parse

_INTERVAL_LEAST: Final = 200
_INTERVAL_MOST: Final = 60_000
_HISTORY: Final = 900
_BACKLOG_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Ended:
    """One call that ended. seconds: spent in it. unix: when it ended."""

    unix: float
    api: str
    method: str
    uid: str
    key_id_sha256: str
    code: str
    seconds: float


@dataclass(frozen=True)
class WatchAdmin:
    """pool: all sessions together, now."""

    stats: Stats
    requests: Feed[Ended]
    pool: Callable[[], PoolView]
    audit: Audit

    def table(self) -> Table:
        return table(
            {"VerifyAudit": self.verify_audit},
            streams={
                "WatchStats": self.watch_stats,
                "WatchRequests": self.watch_requests,
                "WatchAudit": self.watch_audit,
            },
        )

    async def watch_audit(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        request = parse(pb.WatchAuditRequest, body)
        if request.backlog > MAX_BACKLOG:
            raise InvalidRequest(f"{request.backlog} records at once", f"ask for {MAX_BACKLOG} at most")
        async with contextlib.aclosing(self.audit.watch(request.backlog, request.follow)) as batches:
            async for records, dropped in batches:
                yield pb.WatchAuditResponse(
                    records=[_record(each) for each in records], dropped=dropped
                ).SerializeToString()

    async def verify_audit(self, call: Call, body: bytes) -> bytes:
        parse(pb.VerifyAuditRequest, body)
        verdict = await self.audit.verify()
        return pb.VerifyAuditResponse(
            intact=verdict.intact,
            records=verdict.records,
            first_seq=verdict.first_seq,
            last_seq=verdict.head.seq,
            head=verdict.head.hash,
            files=verdict.files,
            problem=verdict.problem,
        ).SerializeToString()

    async def watch_stats(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        request = parse(pb.WatchStatsRequest, body)
        interval = request.interval_ms or 1000
        if not _INTERVAL_LEAST <= interval <= _INTERVAL_MOST:
            raise InvalidRequest(f"an interval of {interval} ms", f"choose {_INTERVAL_LEAST} to {_INTERVAL_MOST} ms")
        history = min(request.history_seconds or _HISTORY, _HISTORY)
        known = int(time()) - 1 - max(history, 0)
        while True:
            frame = self.stats.frame(known)
            if frame.seconds:
                known = frame.seconds[-1].unix_s
            yield self._frame(frame).SerializeToString()
            await asyncio.sleep(interval / 1000)

    def _frame(self, frame: Frame) -> pb.WatchStatsResponse:
        return pb.WatchStatsResponse(
            unix_ms=frame.unix_ms,
            seconds=[_second(each) for each in frame.seconds],
            calls=[
                pb.WatchStatsResponse.Calls(api=each.api, method=each.method, code=each.code, count=each.count)
                for each in frame.calls
            ],
            latencies=[_latency(each) for each in frame.latencies],
            operations=[_latency(each) for each in frame.operations],
            keys=[
                pb.WatchStatsResponse.KeyUse(
                    key_id=each.key_id,
                    key_id_sha256=each.key_id_sha256,
                    encrypts=each.encrypts,
                    decrypts=each.decrypts,
                    last_used_unix_ms=each.last_used_unix_ms,
                )
                for each in frame.keys
            ],
            sessions=sessions(self.pool()),
            in_flight=frame.in_flight,
            started_unix_ms=frame.started_unix_ms,
            quantile_error=frame.quantile_error,
        )

    async def watch_requests(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        request = parse(pb.WatchRequestsRequest, body)
        if request.backlog > _BACKLOG_MOST:
            raise InvalidRequest(f"{request.backlog} calls are not kept", f"ask for {_BACKLOG_MOST} at most")

        def message(ended: Sequence[Ended], dropped: int) -> bytes:
            return pb.WatchRequestsResponse(
                requests=[_request(each) for each in ended], dropped=dropped
            ).SerializeToString()

        def wanted(ended: Sequence[Ended]) -> list[Ended]:
            return [each for each in ended if request.admin or each.api != API]

        async with self.requests.subscribe() as batches:
            kept = wanted(self.requests.last(_BACKLOG_MOST))
            # At once, even if there is none: whoever watches knows then that nothing is missed from now on.
            yield message(kept[max(0, len(kept) - request.backlog) :], 0)
            if not request.follow:
                return
            async for ended, dropped in batches:
                fresh = wanted(ended)
                if fresh or dropped:
                    yield message(fresh, dropped)


def _record(record: Record) -> pb.WatchAuditResponse.Record:
    return pb.WatchAuditResponse.Record(
        seq=record.seq,
        unix_ms=record.unix_ms,
        kind=record.kind,
        action=record.action,
        caller=record.caller,
        key_id_sha256=record.key_id_sha256,
        outcome=record.outcome,
        latency_ms=record.latency_ms,
        detail=record.detail,
        line=record.line,
    )


def _second(second: Second) -> pb.WatchStatsResponse.Second:
    return pb.WatchStatsResponse.Second(
        unix_s=second.unix_s,
        requests=second.requests,
        errors=second.errors,
        encrypts=second.encrypts,
        decrypts=second.decrypts,
        p50_ms=second.p50_ms,
        p99_ms=second.p99_ms,
        max_ms=second.max_ms,
    )


def _latency(latency: Latency) -> pb.WatchStatsResponse.Latency:
    return pb.WatchStatsResponse.Latency(
        api=latency.api,
        method=latency.method,
        count=latency.count,
        sum_ms=latency.sum_ms,
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
        p99_ms=latency.p99_ms,
        max_ms=latency.max_ms,
    )


def _request(ended: Ended) -> pb.WatchRequestsResponse.Request:
    return pb.WatchRequestsResponse.Request(
        unix_ms=int(ended.unix * 1000),
        api=ended.api,
        method=ended.method,
        uid=ended.uid,
        key_id_sha256=ended.key_id_sha256,
        code=ended.code,
        latency_ms=ended.seconds * 1000,
    )
