"""The traffic and what it costs."""

from __future__ import annotations

from datetime import timedelta

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import EPOCH, alike, time
from kmsd.client.model.stats import CallCount, Filter, KeyUse, Latency, Request, Requests, Second, StatsFrame
from kmsd.client.model.status import Sessions


def stats_frame(frame: pb.WatchStatsResponse) -> StatsFrame:
    """Decode a frame of statistics."""
    return alike(
        StatsFrame,
        frame,
        time=time(frame.unix_ms),
        seconds=tuple(alike(Second, each, time=EPOCH + timedelta(seconds=each.unix_s)) for each in frame.seconds),
        calls=tuple(alike(CallCount, each) for each in frame.calls),
        latencies=tuple(alike(Latency, each) for each in frame.latencies),
        operations=tuple(alike(Latency, each) for each in frame.operations),
        keys=tuple(alike(KeyUse, each, last_used=time(each.last_used_unix_ms)) for each in frame.keys),
        sessions=alike(Sessions, frame.sessions),
        started=time(frame.started_unix_ms),
    )


def requests(answer: pb.WatchRequestsResponse) -> Requests:
    """Decode a batch of calls."""
    calls = tuple(alike(Request, each, time=time(each.unix_ms)) for each in answer.requests)
    return alike(Requests, answer, requests=calls)


def filter_(answer: pb.Filter) -> Filter:
    """Decode a filter."""
    return alike(Filter, answer, since=time(answer.since_unix_ms))


def wanted(shown: Filter | None) -> pb.Filter:
    """Encode a filter. None: everything."""
    if shown is None:
        return pb.Filter()
    since = int(shown.since.timestamp() * 1000) if shown.since is not None else 0
    return pb.Filter(
        failed=shown.failed,
        method=shown.method,
        code=shown.code,
        key_id_sha256=shown.key_id_sha256,
        since_unix_ms=since,
        tenant=shown.tenant,
    )
