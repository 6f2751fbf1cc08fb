"""The callers from other machines that have called lately, by the certificates that they showed."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from kmsd.transport.peers import Peer

_MOST: Final = 4096
"""Certificates that are remembered; of one more, the one that called longest ago is forgotten."""
_SECONDS: Final = 24 * 3600.0
"""Seconds for which a caller that is silent is told of."""


_Which = tuple[bytes, str]
"""A certificate, by the DER of its issuer's name and its serial number."""


@dataclass(slots=True)
class SeenPeer:
    """A certificate that somebody called with. peer: as of the connection by which the last call came.

    tenant: name of the tenant that it stands for; empty for none. role: "tenant", "viewer", "operator", or "none".
    last: Unix seconds of the last call. calls: how many it made, refused ones included.
    """

    peer: Peer
    tenant: str
    role: str
    last: float
    calls: int


class SeenPeers:
    """The certificates of the last day, at most so many. Belongs to one event loop."""

    def __init__(self) -> None:
        self._seen: OrderedDict[_Which, SeenPeer] = OrderedDict()
        self._of_tenant: dict[str, dict[_Which, SeenPeer]] = {}
        """The same by tenant: one that asks for each of a thousand tenants must not look at all peers each time."""

    def called(self, peer: Peer, tenant: str, role: str) -> None:
        """Note a call. tenant, role: as of `SeenPeer`."""
        which = (peer.issuer, peer.serial)
        found = self._seen.get(which)
        if found is None:
            if len(self._seen) >= _MOST:
                oldest, gone = self._seen.popitem(last=False)
                self._leave(oldest, gone.tenant)
            found = self._seen[which] = SeenPeer(peer, tenant, role, 0.0, 0)
        elif found.tenant != tenant:
            self._leave(which, found.tenant)
        self._of_tenant.setdefault(tenant, {})[which] = found
        found.peer, found.tenant, found.role, found.last = peer, tenant, role, time.time()
        found.calls += 1
        self._seen.move_to_end(which)

    def _leave(self, which: _Which, tenant: str) -> None:
        of_tenant = self._of_tenant[tenant]
        del of_tenant[which]
        if not of_tenant:
            del self._of_tenant[tenant]

    def of(self, tenant: str = "") -> list[SeenPeer]:
        """Return the peers of a tenant, or of everybody if it is empty; those that called last come first."""
        peers = self._of_tenant.get(tenant, {}) if tenant else self._seen
        since = time.time() - _SECONDS
        lately = (each for each in peers.values() if each.last >= since)
        return sorted(lately, key=lambda each: each.last, reverse=True)

    def first_end(self, tenant: str) -> tuple[int, Peer | None]:
        """Return how many names call for a tenant, and which certificate of theirs ends first, None if there is none.

        Of each name only the certificate counts that it showed last: a renewed one takes the old one's place.
        """
        newest: dict[str, Peer] = {}
        for each in self.of(tenant):
            newest.setdefault(each.peer.name, each.peer)
        return len(newest), min(newest.values(), key=lambda peer: peer.not_after, default=None)
