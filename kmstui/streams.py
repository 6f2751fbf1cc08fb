"""The streams of kmsd that fill a View: traffic, calls, and the audit. Knows no widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from kmsd.client import AuditRecord, AuditRecords, ClientError, Filter, Request, Requests, StatsFrame, Unreachable
from kmstui import traffic
from kmstui.board import Board
from kmstui.feeds import StreamFollower
from kmstui.traffic import Traffic
from kmstui.view import Tail, Want

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

BACKLOG = {Want.REQUESTS: 500, Want.AUDIT: 1000}
"""The number of items that a tail begins with."""
MOST = {Want.REQUESTS: 1000, Want.AUDIT: 5000}
"""The number that a tail keeps."""


class Streams:
    """The followers of all streams, each of which runs while something wants it and kmsd answers."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stats: StreamFollower[StatsFrame] = self._stats_feed(board.view.interval)
        self._tenant_stats: StreamFollower[StatsFrame] = self._tenant_feed(board.view.interval)
        self._requests: StreamFollower[Requests] = StreamFollower(
            "requests", _open_requests, self._take_requests, self._tell_requests
        )
        self._chosen: StreamFollower[Requests] = StreamFollower(
            "chosen", self._open_chosen, self._take_chosen, self._tell_chosen
        )
        self._audit: StreamFollower[AuditRecords] = StreamFollower(
            "audit", _open_audit, self._take_audit, self._tell_audit
        )

    def stop(self) -> None:
        """Stop all streams."""
        for feed in (self._stats, self._tenant_stats, self._requests, self._chosen, self._audit):
            feed.stop()

    def choose(self, wanted: Filter) -> None:
        """Follow the requests of one sort; the filter that wants all ends that."""
        self._chosen.stop()
        if wanted.tenant != self._board.view.wanted.tenant:
            self._tenant_stats.stop()
            self._board.publish(tenant_traffic=Traffic(tenant=wanted.tenant))
        self._board.publish(wanted=wanted, chosen=Tail())

    def pace(self, seconds: float) -> None:
        """Have the traffic told so often."""
        self._stats.stop()
        self._tenant_stats.stop()
        self._stats, self._tenant_stats = self._stats_feed(seconds), self._tenant_feed(seconds)

    def tend(self, client: AdminClient | None) -> None:
        """Let the feeds run that are wanted, as long as kmsd answers."""
        view = self._board.view
        if view.paused or view.lost or view.status.value is None:
            client = None
        wanted: dict[StreamFollower[Any], bool] = {
            self._stats: True,
            self._tenant_stats: Want.REQUESTS in self._board.wants and bool(view.wanted.tenant),
            self._requests: Want.REQUESTS in self._board.wants,
            self._chosen: Want.REQUESTS in self._board.wants and self._board.view.wanted != Filter(),
            self._audit: Want.AUDIT in self._board.wants,
        }
        for feed, want in wanted.items():
            if client is None or not want:
                feed.stop()
            else:
                feed.start(client)

    def _stats_feed(self, interval: float) -> StreamFollower[StatsFrame]:
        pause = max(1.0, interval)
        return StreamFollower(
            "stats", lambda kmsd: kmsd.watch_stats(interval=pause), self._take_frames, self._tell_stats
        )

    def _tenant_feed(self, interval: float) -> StreamFollower[StatsFrame]:
        return StreamFollower(
            "stats of a tenant",
            lambda kmsd: kmsd.watch_stats(interval=max(1.0, interval), tenant=self._board.view.wanted.tenant),
            self._take_tenant_frames,
            self._tell_tenant_stats,
        )

    def _take_tenant_frames(self, frames: Sequence[StatsFrame], begins: bool) -> None:
        known = self._board.view.tenant_traffic
        for frame in frames:
            known = traffic.fold(known, frame, monotonic())
        self._board.publish(tenant_traffic=known)

    def _tell_tenant_stats(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        known = self._board.view.tenant_traffic
        if (known.error, known.due) != (error, due):
            self._board.publish(tenant_traffic=traffic.failed(known, error, due))

    def _take_frames(self, frames: Sequence[StatsFrame], begins: bool) -> None:
        known = self._board.view.traffic
        for frame in frames:
            known = traffic.fold(known, frame, monotonic())
        self._board.publish(traffic=known)

    def _tell_stats(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        if (self._board.view.traffic.error, self._board.view.traffic.due) != (error, due):
            self._board.publish(traffic=traffic.failed(self._board.view.traffic, error, due))

    def _take_requests(self, batches: Sequence[Requests], begins: bool) -> None:
        new = [request for batch in batches for request in batch.requests]
        dropped = sum(batch.dropped for batch in batches)
        tail: Tail[Request] = Tail() if begins else self._board.view.requests
        longer = self._board.longer(tail, new, dropped, MOST[Want.REQUESTS])
        self._board.publish(requests=longer)

    def _tell_requests(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._board.publish(requests=replace(self._board.view.requests, error=error, due=due, following=error is None))

    def _open_chosen(self, kmsd: AdminClient) -> Any:
        return kmsd.watch_requests(backlog=BACKLOG[Want.REQUESTS], wanted=self._board.view.wanted)

    def _take_chosen(self, batches: Sequence[Requests], begins: bool) -> None:
        # A kmsd that knows no filter tells of all.
        new = [request for batch in batches for request in batch.requests if _wanted(self._board.view.wanted, request)]
        tail: Tail[Request] = Tail() if begins else self._board.view.chosen
        dropped = sum(batch.dropped for batch in batches)
        self._board.publish(chosen=self._board.longer(tail, new, dropped, MOST[Want.REQUESTS]))

    def _tell_chosen(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._board.publish(chosen=replace(self._board.view.chosen, error=error, due=due, following=error is None))

    def _take_audit(self, batches: Sequence[AuditRecords], begins: bool) -> None:
        new = [record for batch in batches for record in batch.records]
        dropped = sum(batch.dropped for batch in batches)
        tail: Tail[AuditRecord] = Tail() if begins else self._board.view.audit
        self._board.publish(audit=self._board.longer(tail, new, dropped, MOST[Want.AUDIT]))

    def _tell_audit(self, error: ClientError | None, due: float | None) -> None:
        self._broke(error)
        self._board.publish(audit=replace(self._board.view.audit, error=error, due=due, following=error is None))

    def _broke(self, error: ClientError | None) -> None:
        """Ask at once: a stream that breaks is the first to know that kmsd is gone."""
        if isinstance(error, Unreachable) and not self._board.view.paused:
            self._board.ask_now()


def _wanted(wanted: Filter, request: Request) -> bool:
    return (
        (request.code != "OK" or not wanted.failed)
        and wanted.method in ("", request.method)
        and wanted.code in ("", request.code)
        and wanted.tenant in ("", request.tenant)
        and request.key_id_sha256.startswith(wanted.key_id_sha256)
    )


def _open_requests(kmsd: AdminClient) -> Any:
    return kmsd.watch_requests(backlog=BACKLOG[Want.REQUESTS])


def _open_audit(kmsd: AdminClient) -> Any:
    return kmsd.watch_audit(backlog=BACKLOG[Want.AUDIT])
