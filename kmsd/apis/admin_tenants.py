"""The admin API, kmsd.admin.v1: the tenants of a key manager, and who calls for them. Protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin import KeyWriter, following_of, why_down
from kmsd.apis.admin_table import alike, page, problem, table
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.observe.stats import Stats
from kmsd.problem import Problem
from kmsd.transport.call import Call, Table, parse

if TYPE_CHECKING:
    from kmsd.transport.peers import Peer
    from kmsd.transport.seen_peers import SeenPeer

_LATELY: Final = 10
"""Seconds of which a tenant's rate and p99 are told."""


class Tenants(Protocol):
    """The tenants that are served. See `kmsd.daemon.tenancy.Tenancy`."""

    @property
    def writers(self) -> Sequence[KeyWriter]: ...

    def counted(self, tenant: str) -> Stats:
        """Return the counters of a tenant's calls."""

    def in_flight(self, tenant: str) -> int:
        """Return how many calls of a tenant are under way."""

    def first_end(self, tenant: str) -> tuple[int, Peer | None]:
        """Return how many names call for a tenant, and which certificate of theirs ends first."""

    def peers(self, tenant: str) -> Sequence[SeenPeer]:
        """Return who called lately, for a tenant or for anybody."""


@dataclass(frozen=True)
class TenantAdmin:
    """The part of the admin API that tells of tenants.

    problems: those of one tenant, by its name. connected: the number of open connections of each certificate, by its
    issuer and its serial number.
    """

    tenants: Tenants
    shown: KeyPresenter
    problems: Callable[[str], list[Problem]]
    connected: Callable[[], Mapping[tuple[bytes, str], int]]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table({"ListPeers": self.list_peers})

    def statuses(self) -> list[pb.GetStatusResponse.TenantStatus]:
        """Return how each tenant does."""
        return [self._status(each) for each in self.tenants.writers]

    def _status(self, writer: KeyWriter) -> pb.GetStatusResponse.TenantStatus:
        error, name = why_down(writer), writer.tenant
        problems, lately = self.problems(name), self.tenants.counted(name).lately(_LATELY)
        peers, first = self.tenants.first_end(name)
        state = pb.SERVING_STATE_DEGRADED if problems else pb.SERVING_STATE_SERVING
        return pb.GetStatusResponse.TenantStatus(
            name=name,
            write_label=writer.keyring.write_label,
            state=pb.SERVING_STATE_DOWN if error is not None else state,
            healthz=error.message if error is not None else "ok",
            hint=error.hint if error is not None else "",
            write_key=self.shown.optional(writer.keyring.inventory.write),
            following=following_of(writer),
            in_flight=self.tenants.in_flight(name),
            requests_per_second=lately.requests_per_second,
            p99_ms=lately.p99_ms,
            requests=lately.requests,
            errors=lately.errors,
            peers=peers,
            first_end_unix_ms=int(first.not_after * 1000) if first is not None else 0,
            problems=[problem(each) for each in problems],
        )

    async def list_peers(self, call: Call, body: bytes) -> bytes:
        """List who called lately, for one tenant or for all."""
        request = parse(pb.ListPeersRequest, body)
        found, token = page(self.tenants.peers(request.tenant), request.page_size, request.page_token)
        connected = self.connected() if found else {}
        return pb.ListPeersResponse(
            peers=[_peer(each, connected.get((each.peer.issuer, each.peer.serial), 0)) for each in found],
            next_page_token=token,
        ).SerializeToString()


def _peer(seen: SeenPeer, connections: int) -> pb.ListPeersResponse.Peer:
    peer = seen.peer
    return alike(
        pb.ListPeersResponse.Peer,
        peer,
        tenant=seen.tenant,
        role=seen.role,
        not_before_unix_ms=int(peer.not_before * 1000),
        not_after_unix_ms=int(peer.not_after * 1000),
        tls_version=peer.version,
        last_seen_unix_ms=int(seen.last * 1000),
        connections=connections,
        calls=seen.calls,
    )
