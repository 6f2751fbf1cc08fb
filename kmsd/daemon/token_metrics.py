"""The values of the metrics of a kmsd with tokens, and the checks of its probes: read where they are, counted nowhere.

Waits for nothing: a probe is answered, and metrics are told, whatever the token does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Final

from kmsd.audit.trail import Audit
from kmsd.daemon import common_metrics
from kmsd.daemon.observed import Checks
from kmsd.daemon.tenancy import Tenancy
from kmsd.daemon.writer import Writer
from kmsd.errors import KmsdError
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.hsm.connection import Hsm
from kmsd.keys.key import KeyState, known_made_ms
from kmsd.keys.lifecycle.evidence import ScanEvidence
from kmsd.metrics import catalogue
from kmsd.metrics.keys import MOST
from kmsd.metrics.samples import KeyUses, Sample, Totals
from kmsd.observe.stats import Stats
from kmsd.problem import Problem

if TYPE_CHECKING:
    from kmsd.jwt.api import KeySet
    from kmsd.transport.tls import OwnCertificate

_FOREIGN: Final = (
    *(CiphertextFormat.K8S_KMS_PLUGIN_GCM, CiphertextFormat.K8S_KMS_PLUGIN_CBC),
    CiphertextFormat.KEYSEALER,
)
_GCM_MOST: Final = 2**32
"""Invocations that one AES-GCM key with random IVs may see (NIST SP 800-38D, 8.3)."""


@dataclass
class TokenMetrics:
    """The gatherer of a kmsd with tokens. problems: of kmsd's own sockets. listeners: every place, and whether it is
    served. certificates: what kmsd shows, by what for. unreachable: why nobody can connect to a socket. verdict: why
    only a restart can help. serves_tcp: whether callers from other machines are to be served; tcp: why they are not.
    stopping: whether kmsd ends. signers: of service account tokens, by tenant: whether they sign, and what they
    publish."""

    tokens: Mapping[str, Hsm]
    own: Writer
    tenancy: Tenancy
    audit: Audit
    stats: Stats
    problems: Callable[[], Iterable[Problem]]
    listeners: Callable[[], Iterable[tuple[str, bool]]]
    certificates: Callable[[], Iterable[tuple[str, OwnCertificate]]]
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]
    serves_tcp: bool
    tcp: Callable[[], KmsdError | None]
    stopping: Callable[[], bool]
    signers: Callable[[], Iterable[tuple[str, bool, KeySet]]]
    _scan: ScanEvidence | None = None

    def scanned(self, scan: ScanEvidence) -> None:
        """Take note of a scan of etcd, unless it is older than the last one."""
        if self._scan is None or scan.finished >= self._scan.finished:
            self._scan = scan

    def live(self) -> Checks:
        """Return whether only a restart can help."""
        return (("process", self.verdict()),)

    def ready(self) -> Checks:
        """Return whether callers are served, by the round trip that was made last."""
        keyring, health = self.own.keyring, self.own.health.view()
        write = keyring.inventory.write
        serving = write is not None and keyring.hsm(write).available
        return (
            ("process", "kmsd is stopping" if self.stopping() else self.verdict()),
            ("sockets", self.unreachable()),
            *((("tcp", self.tcp()),) if self.serves_tcp else ()),
            ("write-key", None if serving else keyring.why_none()),
            ("round-trip", health.error),
        )

    def samples(self) -> Iterator[Sample]:
        """Yield the values of all metrics now."""
        yield from common_metrics.of_process(self.stats, self.problems(), self.listeners())
        yield from common_metrics.of_audit(self.audit)
        for use, own in self.certificates():
            yield from common_metrics.of_certificate(use, own.not_before, own.not_after)
        for name, hsm in self.tokens.items():
            yield from _of_token(name, hsm)
        yield from self._of_keys()
        yield Sample(catalogue.HEALTH_INTERVAL, self.own.health.interval)
        for writer in (self.own, *self.tenancy.writers):
            yield from self._of_writer(writer)
        for writer in self.tenancy.writers:
            yield from self._of_tenant(writer.tenant)
        for tenant, ready, published in self.signers():
            yield Sample(catalogue.JWT_READY, ready, (tenant,))
            yield Sample(catalogue.JWT_KEYS, len(published.keys), (tenant,))
            yield Sample(catalogue.JWT_CHANGED, published.ms / 1000, (tenant,))

    def _of_keys(self) -> Iterator[Sample]:
        inventory = self.own.keyring.inventory
        states = dict.fromkeys(KeyState, 0)
        for key in (*inventory.keys, *inventory.planted):
            states[key.state] += 1
        for state, number in states.items():
            yield Sample(catalogue.KEYS, number, (state.value,))
        writers = (each.keyring.inventory.write for each in (self.own, *self.tenancy.writers))
        write = {each.key_id for each in writers if each is not None}
        gone = self.stats.forgotten
        counts = dict.fromkeys(write, (0, 0)) | self.stats.key_counts()
        uses = KeyUses(counts, (gone.encrypts, gone.decrypts), write)
        yield Sample(catalogue.KEY_OPERATIONS, uses)
        for form in _FOREIGN:
            number = sum(each.foreign.read[form] for each in (self.own, *self.tenancy.writers))
            yield Sample(catalogue.LEGACY_DECRYPTS, number, (form,))
        if self._scan is not None:
            yield from self._of_scan(self._scan)

    def _of_scan(self, scan: ScanEvidence) -> Iterator[Sample]:
        """Yield what the last scan counted, by keys that are known by their ids; a name that is a label is among the
        others."""
        keys = self.own.keyring.inventory.by_key_id
        counted: Counter[str] = Counter()
        for use in scan.uses:
            key = next((keys[name] for name in use.names if name in keys), None)
            counted[f"sha256:{key.key_id_sha256}" if key is not None else "other"] += use.objects
        others = counted.pop("other", 0)
        most = counted.most_common(MOST)
        for name, objects in most:
            yield Sample(catalogue.SCAN_OBJECTS, objects, (name,))
        others += counted.total() - sum(objects for _, objects in most)
        yield Sample(catalogue.SCAN_OBJECTS, others, ("other",))
        yield Sample(catalogue.SCAN_OBJECTS, scan.unknown, ("unknown",))
        yield Sample(catalogue.SCAN_TIME, scan.finished)

    def _of_writer(self, writer: Writer) -> Iterator[Sample]:
        """Yield how a write key is, and how far it is followed."""
        tenant, view = (writer.tenant,), writer.health.view()
        yield Sample(catalogue.HEALTH_OK, view.ok, tenant)
        if isfinite(view.age):
            yield Sample(catalogue.HEALTH_AGE, view.age, tenant)
        yield Sample(catalogue.HEALTH_SUCCESS, view.last_success, tenant)
        yield Sample(catalogue.HEALTH_ROUND_TRIP, view.round_trip, tenant)
        key = writer.keyring.inventory.write
        if key is None:
            return
        yield Sample(catalogue.WRITE_KEY, 1, (writer.tenant, f"sha256:{key.key_id_sha256}"))
        if made := known_made_ms(key):
            yield Sample(catalogue.WRITE_KEY_CREATED, made / 1000, tenant)
        if key.token.kind == "aes":
            yield Sample(catalogue.GCM_BUDGET, self.stats.key_use(key.key_id).encrypts / _GCM_MOST, tenant)
        yield from common_metrics.of_following(writer.service.following, key.key_id, writer.tenant)

    def _of_tenant(self, name: str) -> Iterator[Sample]:
        stats = self.tenancy.stats[name]
        counted = stats.counted()
        yield Sample(
            catalogue.TENANT_DURATION,
            Totals(sum(each.count for each in counted.calls), sum(view.seconds for _, _, view in counted.durations)),
            (name,),
        )
        failed = sum(each.count for each in counted.calls if each.code != "OK")
        yield Sample(catalogue.TENANT_ERRORS, failed, (name,))
        yield Sample(catalogue.TENANT_IN_FLIGHT, self.tenancy.in_flight(name), (name,))
        peers, first = self.tenancy.first_end(name)
        yield Sample(catalogue.TENANT_PEERS, peers, (name,))
        if first is not None:
            yield from common_metrics.of_certificate("tenant", first.not_before, first.not_after, name)


def _of_token(name: str, hsm: Hsm) -> Iterator[Sample]:
    pool, queue = hsm.pool_view(), hsm.queue
    yield Sample(catalogue.HSM_UP, hsm.connected is not None, (name,))
    for state, number in (("open", pool.open), ("busy", pool.busy), ("stuck", pool.stuck)):
        yield Sample(catalogue.HSM_SESSIONS, number, (name, state))
    yield Sample(catalogue.HSM_SESSIONS_LIMIT, pool.most, (name,))
    yield Sample(catalogue.HSM_QUEUE, pool.queued, (name,))
    yield Sample(catalogue.HSM_QUEUE_LIMIT, hsm.address.queue, (name,))
    yield Sample(catalogue.HSM_REFUSED, queue.refused, (name,))
    yield Sample(catalogue.HSM_SILENT, hsm.silent, (name,))
    yield Sample(catalogue.HSM_HOSTS, hsm.hosting.changeover.hosts, (name,))
    yield Sample(catalogue.HSM_OPERATOR, hsm.refused, (name,))
