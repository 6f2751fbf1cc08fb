"""The values of the metrics of a proxy, and the checks of its probes. Waits for nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmsd.audit.trail import Audit
from kmsd.daemon import common_metrics
from kmsd.daemon.observed import Checks
from kmsd.errors import KmsdError
from kmsd.metrics import catalogue
from kmsd.metrics.samples import Sample
from kmsd.observe.stats import Stats
from kmsd.problem import Problem
from kmsd.service.remote import RemoteService
from kmsd.service.upstream import Upstream

if TYPE_CHECKING:
    from kmsd.transport.tls import OwnCertificate


@dataclass(frozen=True)
class ProxyMetrics:
    """The gatherer of a proxy. The fields are those of `kmsd.daemon.token_metrics.TokenMetrics`."""

    service: RemoteService
    audit: Audit
    stats: Stats
    problems: Callable[[], Iterable[Problem]]
    listeners: Callable[[], Iterable[tuple[str, bool]]]
    certificate: Callable[[], OwnCertificate | None]
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]
    stopping: Callable[[], bool]

    def live(self) -> Checks:
        """Return whether only a restart can help."""
        return (("process", self.verdict()),)

    def ready(self) -> Checks:
        """Return whether callers are served, by what key managers answered last."""
        return (
            ("process", "kmsd is stopping" if self.stopping() else self.verdict()),
            ("sockets", self.unreachable()),
            ("key-managers", self.service.why_down()),
        )

    def samples(self) -> Iterator[Sample]:
        """Yield the values of all metrics now."""
        yield from common_metrics.of_process(self.stats, self.problems(), self.listeners())
        yield from common_metrics.of_audit(self.audit)
        if (own := self.certificate()) is not None:
            yield from common_metrics.of_certificate("proxy", own.not_before, own.not_after)
        yield Sample(catalogue.HEALTH_OK, self.service.why_down() is None, ("",))
        yield from self._of_key(self.service.key_id)
        for upstream in self.service.upstreams:
            yield from _of_upstream(upstream)

    def _of_key(self, key_id: str) -> Iterator[Sample]:
        if key_id:
            yield Sample(catalogue.WRITE_KEY, 1, ("", _hash(key_id)))
            yield from common_metrics.of_following(self.service.following, key_id, "")


def _of_upstream(upstream: Upstream) -> Iterator[Sample]:
    where = (upstream.address,)
    yield Sample(catalogue.UPSTREAM_UP, upstream.up, where)
    yield Sample(catalogue.UPSTREAM_USABLE, upstream.usable, where)
    yield Sample(catalogue.UPSTREAM_REQUESTS, upstream.asked, where)
    yield Sample(catalogue.UPSTREAM_FAILURES, upstream.failed, where)
    yield Sample(catalogue.UPSTREAM_IN_FLIGHT, upstream.in_flight, where)
    yield Sample(catalogue.UPSTREAM_ROUND_TRIP, upstream.seconds, where)
    yield Sample(catalogue.UPSTREAM_ANSWERED, upstream.answered_at, where)
    if upstream.key_id:
        yield Sample(catalogue.UPSTREAM_KEY, 1, (upstream.address, _hash(upstream.key_id)))


def _hash(key_id: str) -> str:
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}"
