"""The values of the metrics that every kmsd has, with tokens or as a proxy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kmsd import __version__
from kmsd.audit.trail import Audit
from kmsd.metrics import catalogue
from kmsd.metrics.samples import Sample
from kmsd.observe.stats import Stats
from kmsd.problem import Problem
from kmsd.service.following import Following

_CHAINS: Final = ("main", "kms")
_CALLS: Final = tuple(
    (api, method, code)
    for api in ("v1beta1", "v2")
    for method in ("Decrypt", "Encrypt")
    for code in (
        *("OK", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND"),
        *("RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    )
)
"""Calls of which the number is told from the beginning."""


def of_process(stats: Stats, problems: Iterable[Problem], listeners: Iterable[tuple[str, bool]]) -> Iterator[Sample]:
    """Yield what is known of the process and of all calls. listeners: each place, and whether it is served."""
    yield Sample(catalogue.BUILD, 1, (__version__,))
    yield Sample(catalogue.STARTED, stats.started)
    counts = {"fatal": 0, "passing": 0, "warning": 0}
    for each in problems:
        counts["fatal" if each.fatal else "passing" if each.passing else "warning"] += 1
    for severity, number in counts.items():
        yield Sample(catalogue.PROBLEMS, number, (severity,))
    for place, served in listeners:
        yield Sample(catalogue.LISTENER, served, (place,))
    counted = stats.counted()
    # Zeros first: of a series that begins with its first failure nobody sees that it has increased.
    requests = dict.fromkeys(_CALLS, 0) | {(each.api, each.method, each.code): each.count for each in counted.calls}
    for which, number in requests.items():
        yield Sample(catalogue.RPC_REQUESTS, number, which)
    for api, method, view in counted.durations:
        yield Sample(catalogue.RPC_DURATION, view, (api, method))
    yield Sample(catalogue.RPC_IN_FLIGHT, stats.in_flight)
    for name, view in counted.operations:
        yield Sample(catalogue.HSM_OPERATION, view, (name,))


def of_audit(audit: Audit) -> Iterator[Sample]:
    """Yield how the audit is."""
    for chain, view in zip(_CHAINS, audit.views(), strict=True):
        yield Sample(catalogue.AUDIT_RECORDS, view.records, (chain,))
        yield Sample(catalogue.AUDIT_LOST, view.lost, (chain,))
        yield Sample(catalogue.AUDIT_WAITING, view.waiting, (chain,))
        if view.ok is not None:
            yield Sample(catalogue.AUDIT_OK, view.ok, (chain,))
    yield Sample(catalogue.AUDIT_DISTURBED, audit.tampering.times)


def of_following(following: Following, key_id: str, tenant: str) -> Iterator[Sample]:
    """Yield how far kube-apiserver has followed to the key that encrypts. key_id: its id."""
    present = following.key_id == key_id
    followed = present and following.first_encrypt > 0
    if followed or following.previous or (following.key_id and not present):
        yield Sample(catalogue.WRITE_KEY_FOLLOWED, followed, (tenant,))
    if present:
        yield Sample(catalogue.WRITE_KEY_SINCE, following.since, (tenant,))


def of_certificate(use: str, not_before: float, not_after: float, tenant: str = "") -> Iterator[Sample]:
    """Yield when a certificate begins and ends, in Unix seconds."""
    yield Sample(catalogue.CERTIFICATE_END, not_after, (use, tenant))
    yield Sample(catalogue.CERTIFICATE_START, not_before, (use, tenant))
