"""The admin API, kmsd.admin.v1: what goes on, as streams. Protobuf to domain and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from time import time
from typing import Final, NamedTuple, Protocol

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import API, alike, sessions, table
from kmsd.audit.tampering import ACKNOWLEDGE, acknowledgement
from kmsd.audit.trail import MAX_BACKLOG, Audit
from kmsd.errors import InvalidRequest
from kmsd.observe.feed import Feed
from kmsd.observe.stats import Frame, Stats
from kmsd.observe.wanted import Wanted
from kmsd.transport.call import Call, Table, parse

_INTERVAL_LEAST: Final = 200
_INTERVAL_MOST: Final = 60_000
_HISTORY: Final = 900
_BACKLOG_MOST: Final = 1000
_FEWER: Final = "ask for fewer, and choose among them: kmsctl --failed, --since"


class Ended(NamedTuple):
    """A call that ended. seconds: spent in it. unix: when it ended. reason: why it failed, as `KmsdError.reason`.
    tenant: name of the one that called; empty for none."""

    unix: float
    api: str
    method: str
    uid: str
    key_id_sha256: str
    code: str
    seconds: float
    reason: str = ""
    tenant: str = ""


class SessionFigures(Protocol):
    """The sessions of all tokens together."""

    @property
    def configured(self) -> int: ...
    @property
    def open(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def stuck(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def most(self) -> int: ...


@dataclass(frozen=True)
class WatchAdmin:
    """The part of the admin API that streams what goes on.

    failed: the last calls that failed, which those that succeed push out of `requests`. pool: all sessions together,
    now. of_tenant: the calls that a tenant made; raises InvalidRequest if there is none that is called so.
    """

    stats: Stats
    requests: Feed[Ended]
    failed: Collection[Ended]
    pool: Callable[[], SessionFigures]
    audit: Audit
    of_tenant: Callable[[str], Stats]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {"VerifyAudit": self.verify_audit, ACKNOWLEDGE: self.acknowledge_audit},
            streams={
                "WatchStats": self.watch_stats,
                "WatchRequests": self.watch_requests,
                "WatchAudit": self.watch_audit,
            },
        )

    async def watch_audit(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        """Send the last records of the audit, and on request those that follow."""
        request = parse(pb.WatchAuditRequest, body)
        if request.backlog > MAX_BACKLOG:
            raise InvalidRequest(f"the number of records must be 0 to {MAX_BACKLOG}, got {request.backlog}", _FEWER)
        wanted = _wanted(request.filter)
        async with contextlib.aclosing(self.audit.watch(request.backlog, request.follow, wanted)) as batches:
            async for records, dropped in batches:
                told = [alike(pb.WatchAuditResponse.Record, each) for each in records]
                yield pb.WatchAuditResponse(records=told, dropped=dropped).SerializeToString()

    async def verify_audit(self, call: Call, body: bytes) -> bytes:
        """Prove the audit's chains."""
        parse(pb.VerifyAuditRequest, body)
        proof = await self.audit.verify()
        return pb.VerifyAuditResponse(
            intact=proof.intact,
            records=proof.main.records,
            first_seq=proof.main.first_seq,
            last_seq=proof.main.head.seq,
            head=proof.main.head.hash,
            files=proof.main.files,
            problem=proof.problem,
            chains=[
                alike(pb.VerifyAuditResponse.Chain, each, name=name, last_seq=each.head.seq, head=each.head.hash)
                for name, each in proof._asdict().items()
            ],
        ).SerializeToString()

    async def acknowledge_audit(self, call: Call, body: bytes) -> bytes:
        """Put away what other programs were seen to do to the audit."""
        request = parse(pb.AcknowledgeAuditRequest, body)
        seen = self.audit.tampering.up_to(request.up_to_seq)
        # The record of this call is what acknowledges them.
        done = bool(seen) and not request.dry_run
        if not request.dry_run:
            call.detail = acknowledgement(seen) if done else "there was nothing"
        return pb.AcknowledgeAuditResponse(
            seen=[alike(pb.AcknowledgeAuditResponse.Seen, each) for each in seen], acknowledged=done
        ).SerializeToString()

    async def watch_stats(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        """Send the statistics, again after each interval."""
        request = parse(pb.WatchStatsRequest, body)
        interval = request.interval_ms or 1000
        if not _INTERVAL_LEAST <= interval <= _INTERVAL_MOST:
            raise InvalidRequest(
                f"the interval must be {_INTERVAL_LEAST} to {_INTERVAL_MOST} ms, got {interval}",
                "leave it out for 1000",
            )
        history = min(request.history_seconds or _HISTORY, _HISTORY)
        known = int(time()) - 1 - max(history, 0)
        stats = self.of_tenant(request.tenant) if request.tenant else self.stats
        while True:
            frame = stats.frame(known)
            if frame.seconds:
                known = frame.seconds[-1].unix_s
            yield self._frame(frame).SerializeToString()
            await asyncio.sleep(interval / 1000)

    def _frame(self, frame: Frame) -> pb.WatchStatsResponse:
        return alike(
            pb.WatchStatsResponse,
            frame,
            seconds=[alike(pb.WatchStatsResponse.Second, each) for each in frame.seconds],
            calls=[alike(pb.WatchStatsResponse.Calls, each) for each in frame.calls],
            latencies=[alike(pb.WatchStatsResponse.Latency, each) for each in frame.latencies],
            operations=[alike(pb.WatchStatsResponse.Latency, each) for each in frame.operations],
            keys=[alike(pb.WatchStatsResponse.KeyUse, each) for each in frame.keys],
            sessions=sessions(self.pool()),
        )

    async def watch_requests(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        """Send the last calls, and on request those that follow."""
        request = parse(pb.WatchRequestsRequest, body)
        if request.backlog > _BACKLOG_MOST:
            raise InvalidRequest(f"the number of calls must be 0 to {_BACKLOG_MOST}, got {request.backlog}", _FEWER)
        filter_ = _wanted(request.filter)

        def message(ended: Sequence[Ended], dropped: int) -> bytes:
            return pb.WatchRequestsResponse(
                requests=[_request(each) for each in ended], dropped=dropped
            ).SerializeToString()

        def wanted(ended: Ended) -> bool:
            return (request.admin or ended.api != API) and filter_.wants(
                ended.method, ended.code, ended.key_id_sha256, ended.unix * 1000, ended.tenant
            )

        async with self.requests.subscribe(wanted=wanted) as batches:
            past = self.failed if filter_.only_failures else self.requests.last(_BACKLOG_MOST)
            kept = [each for each in past if wanted(each)]
            # At once, even if there is none: whoever watches knows then that nothing is missed from now on.
            yield message(kept[max(0, len(kept) - request.backlog) :], 0)
            if not request.follow:
                return
            async for ended, dropped in batches:
                yield message(ended, dropped)


def _wanted(filter_: pb.Filter) -> Wanted:
    """Return what the filter of a request asks for. Raises InvalidRequest for values that cannot be."""
    return Wanted(
        filter_.failed,
        filter_.method,
        filter_.code,
        key=filter_.key_id_sha256,
        since_ms=filter_.since_unix_ms,
        tenant=filter_.tenant,
    )


def _request(ended: Ended) -> pb.WatchRequestsResponse.Request:
    return alike(
        pb.WatchRequestsResponse.Request,
        ended,
        unix_ms=int(ended.unix * 1000),
        latency_ms=ended.seconds * 1000,
    )
