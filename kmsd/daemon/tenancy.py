"""The tenants of a key manager: each with a writer of its own, told apart by the certificates of their proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kmsd.apis.admin import why_down
from kmsd.config.remote import AdminEntry, Tenant
from kmsd.daemon import event_sinks
from kmsd.daemon.background_tasks import LabelUpkeep
from kmsd.daemon.writer import Shared, Writer
from kmsd.errors import Denied, InvalidRequest, short
from kmsd.observe.health import HealthView
from kmsd.observe.stats import Stats
from kmsd.service.api import KmsService
from kmsd.transport.call import Call, Role

if TYPE_CHECKING:
    from kmsd.transport.admission import PeerAdmission
    from kmsd.transport.peers import Peer
    from kmsd.transport.seen_peers import SeenPeer


_HISTORY: Final = 60
"""Seconds of a tenant's calls that are kept one by one."""


class Tenancy:
    """The tenants that are served now. upkeep: gets what is kept up for each. Belongs to one event loop.

    changed: called when a tenant came or went, or began or ceased to be served. overlapping: pairs of tenants that one
    certificate would fit, with a name that shows it. stats: counters of the calls of each tenant.
    """

    def __init__(
        self, shared: Shared, upkeep: list[LabelUpkeep], stats: dict[str, Stats], changed: Callable[[], None]
    ) -> None:
        self.stats = stats
        self.overlapping: list[tuple[str, str, str]] = []
        self._shared = shared
        self._upkeep = upkeep
        self._changed = changed
        self._writers: dict[str, Writer] = {}
        self._by_label: dict[str, str] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._admission: PeerAdmission | None = None

    @property
    def admission(self) -> PeerAdmission:
        if self._admission is None:
            from kmsd.transport.admission import PeerAdmission  # loads what only TLS needs

            self._admission = PeerAdmission()
        return self._admission

    @property
    def writers(self) -> Sequence[Writer]:
        return tuple(self._writers.values())

    def find(self, tenant: str) -> Writer:
        """Return the writer of a tenant. Raises InvalidRequest."""
        writer = self._writers.get(tenant)
        if writer is None:
            known = ", ".join(self._writers) or "none"
            raise InvalidRequest(f"there is no tenant {short(tenant)}", f"the tenants of this kmsd are: {known}")
        return writer

    def service(self, call: Call) -> KmsService:
        """Return the service of the tenant that calls. Raises Denied."""
        writer = self._writers.get(call.tenant)
        if writer is None:
            raise Denied("this caller is no tenant any more", "enter it in [[tenants]], and reload kmsd (SIGHUP)")
        return writer.unfollowed if call.check else writer.service

    def counted(self, tenant: str) -> Stats:
        """Return the counters of the calls of a tenant. Raises InvalidRequest."""
        self.find(tenant)
        return self.stats[tenant]

    def serves(self, tenant: str) -> bool:
        """Return whether a tenant is served."""
        writer = self._writers.get(tenant)
        return writer is not None and why_down(writer) is None

    @property
    def labels(self) -> frozenset[str]:
        """The labels of the tenants' write keys."""
        return frozenset(self._by_label)

    def tenant_of(self, label: str) -> str:
        """Return the name of the tenant whose write key has this label; empty if none's has."""
        return self._by_label.get(label, "")

    def first_end(self, tenant: str) -> tuple[int, Peer | None]:
        """Return as `kmsd.transport.seen_peers.SeenPeers.first_end`."""
        return self._admission.seen.first_end(tenant) if self._admission is not None else (0, None)

    def peers(self, tenant: str) -> Sequence[SeenPeer]:
        """Return who called for a tenant lately, or for anybody if it is empty; the latest first. Raises
        InvalidRequest."""
        if tenant:
            self.find(tenant)
        return self._admission.seen.of(tenant) if self._admission is not None else ()

    def in_flight(self, tenant: str) -> int:
        """Return how many calls of a tenant are under way."""
        return self.admission.in_flight(tenant)

    def rule(self, tenants: Sequence[Tenant], admins: Sequence[AdminEntry]) -> None:
        """Serve these tenants, and no others, from now on. One that stays goes on undisturbed."""
        if not tenants and not admins and self._admission is None:
            return
        from kmsd.transport.admission import AdminRule, TenantRule, overlaps
        from kmsd.transport.peers import NamePattern

        kept = {each.name: each for each in tenants}
        for name, writer in tuple(self._writers.items()):
            if name not in kept or kept[name].key_label != writer.label:
                self._end(self._writers.pop(name))
        for tenant in tenants:
            if tenant.name not in self._writers:
                self._writers[tenant.name] = self._begin(tenant)
        self._by_label = {each.key_label: each.name for each in tenants}
        rules = [
            TenantRule(each.name, tuple(map(NamePattern.parse, each.san)), each.max_rate, each.max_in_flight)
            for each in tenants
        ]
        roles = {"viewer": Role.VIEWER, "operator": Role.OPERATOR}
        self.admission.rule(
            rules, [AdminRule(tuple(map(NamePattern.parse, each.san)), roles[each.role]) for each in admins]
        )
        self.overlapping = overlaps(rules)
        self._changed()

    async def stop(self) -> None:
        """End what is done for every tenant."""
        for writer in self._writers.values():
            self._end(writer)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _begin(self, tenant: Tenant) -> Writer:
        shared, name = self._shared, tenant.name

        def told(view: HealthView) -> None:
            event_sinks.tenant_health_changed(shared.audit, name, view)
            self._changed()

        self.stats.setdefault(name, Stats(history=_HISTORY))

        directory = shared.settings.state.dir / "tenants" / name
        writer = Writer(shared, tenant=name, label=tenant.key_label, directory=directory, told=told)
        self._upkeep.append(writer.upkeep)
        writer.begin()
        return writer

    def _end(self, writer: Writer) -> None:
        self.stats.pop(writer.tenant, None)
        self._upkeep.remove(writer.upkeep)
        task = asyncio.create_task(writer.end(), name=f"tenant-{writer.tenant}-ends")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
