"""Several kmsd side by side: each asked for itself, within one deadline, and the odd one found. Shows nothing.

Whoever asks gets a Member for each target, one that does not answer included. Members of one cluster should encrypt
with the same key, so one that writes with another key than the rest is what comes first.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Final

from kmsd.client.clientconfig import MOST_TARGETS, Target
from kmsd.client.errors import ClientError, InvalidRequest
from kmsd.client.model.keys import Key
from kmsd.client.model.stats import Second
from kmsd.client.model.status import Status, TenantStatus

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

RATE_SECONDS: Final = 10
"""Whole seconds that requests per second and p99 are taken from."""
SKEW_MOST: Final = 5.0
"""Seconds by which a clock may be off before it is worth a sentence: the age of a key is in its id, and the newest key
writes."""


class Kind(StrEnum):
    """The kinds of kmsd, each of which writes with keys of its own."""

    LOCAL = "local"
    """It has a token, and serves its own machine alone."""
    MANAGER = "manager"
    """A key manager: it has a token, and serves tenants on other machines, too."""
    PROXY = "proxy"
    """It has no token, and asks key managers."""


def kind(status: Status) -> Kind:
    """Return which kind of kmsd told this status."""
    if status.upstreams:
        return Kind.PROXY
    return Kind.MANAGER if status.tenants else Kind.LOCAL


@dataclass(frozen=True)
class Member:
    """A target with what it answered, or why it did not.

    error: None if it answered. rate: requests per second over RATE_SECONDS; None if it does not tell. p99_ms: of the
    worst of these seconds; None if nothing was asked in them. skew: seconds by which its clock is ahead of this
    machine's; None if it does not tell. answered_in: seconds until Status was answered. asked: when.
    """

    target: Target
    asked: datetime
    status: Status | None = None
    error: ClientError | None = None
    rate: float | None = None
    p99_ms: float | None = None
    skew: float | None = None
    answered_in: float | None = None

    @property
    def write_key(self) -> Key | None:
        return None if self.status is None else self.status.write_key

    @property
    def kind(self) -> Kind | None:
        """The kind of kmsd that it is; None if it did not answer."""
        return None if self.status is None else kind(self.status)


@dataclass(frozen=True)
class Standing:
    """A member among the others. odd: it writes with another key than the rest. remarks: sentences about it."""

    member: Member
    odd: bool = False
    remarks: tuple[str, ...] = ()


def ask(target: Target, timeout: float, client: AdminClient | None = None) -> Member:
    """Ask one kmsd for what a Member holds, for at most `timeout` seconds. Whatever fails is in the answer.

    client: one that is connected already; it stays open.
    """
    from kmsd.client import connect

    asked, started = datetime.now(UTC), time.monotonic()
    kmsd = client
    try:
        kmsd = client or connect(target, timeout=timeout)
        before = time.time()
        status = kmsd.get_status(timeout=timeout)
        after = time.time()
        answered_in = time.monotonic() - started
        skew = None if status.now is None else status.now.timestamp() - (before + after) / 2
        rate, p99_ms = _traffic(kmsd, max(0.05, timeout - answered_in))  # within the same deadline
    except ClientError as error:
        return Member(target, asked, error=error)
    finally:
        if client is None and kmsd is not None:
            kmsd.close()
    return Member(target, asked, status, None, rate, p99_ms, skew, answered_in)


def ask_all(targets: Sequence[Target], timeout: float) -> tuple[Member, ...]:
    """Ask all of them at once; in their order. timeout: seconds for each. Raises InvalidRequest for too many."""
    if len(targets) > MOST_TARGETS:
        raise InvalidRequest(
            f"at most {MOST_TARGETS} targets are asked at once, got {len(targets)}", "name fewer", "INVALID_ARGUMENT"
        )
    if not targets:
        return ()
    with ThreadPoolExecutor(len(targets)) as pool:
        return tuple(pool.map(lambda each: ask(each, timeout), targets))


def compare(members: Sequence[Member]) -> tuple[Standing, ...]:
    """Return what stands out, the oddest first: another write key, then no answer, then not healthy, then another
    version or a wrong clock, then the rest; in the order of `members` among equals. Write keys are compared with those
    of the same kind: a key manager's own key is no tenant's, and a proxy's is that of its tenant."""
    keys, tenants = _keys(members), _tenants(members)
    versions = Counter(each.status.version for each in members if each.status is not None)
    usual_version = _most(versions)

    def stand(member: Member) -> tuple[int, Standing]:
        status = member.status
        if status is None:
            said = () if member.error is None else (member.error.message,)
            return 1, Standing(member, remarks=said)
        remarks = list(_other_keys(member, keys, tenants))
        odd = bool(remarks)
        if not status.healthy:
            remarks.append(status.healthz or "it does not say how it is")
        version = len(versions) > 1 and status.version != usual_version
        if version:
            rest = "the rest" if usual_version is None else f"the rest, which have {usual_version}"
            remarks.append(f"another version than {rest}")
        skewed = member.skew is not None and abs(member.skew) > SKEW_MOST
        if skewed and member.skew is not None:
            ahead = "ahead of" if member.skew > 0 else "behind"
            remarks.append(f"its clock is {abs(member.skew):.0f} s {ahead} this machine's")
        rank = 0 if odd else 2 if not status.healthy else 3 if version or skewed else 4
        return rank, Standing(member, odd, tuple(remarks))

    ranked = [stand(each) for each in members]
    return tuple(each for _, each in sorted(ranked, key=lambda one: one[0]))


def agreement(members: Sequence[Member]) -> tuple[int, int]:
    """Return how many of those that have a write key agree on it with the others of their kind, and how many those
    are. A proxy agrees if a key manager among the members has a tenant that writes with its key."""
    keys, known = _keys(members), set(chain.from_iterable(_tenants(members).values()))
    agreeing = 0
    for of_kind, counts in keys.items():
        explained = {key_id: number for key_id, number in counts.items() if of_kind is Kind.PROXY and key_id in known}
        if explained:
            usual = _most(counts)
            agreeing += sum(explained.values()) + (counts[usual] if usual is not None and usual not in explained else 0)
        else:
            agreeing += max(counts.values())
    return agreeing, sum(each.total() for each in keys.values())


def _keys(members: Sequence[Member]) -> Mapping[Kind, Counter[str]]:
    """Return how many of each kind write with which key."""
    found: dict[Kind, Counter[str]] = {}
    for each in members:
        if each.kind is not None and each.write_key is not None:
            found.setdefault(each.kind, Counter())[each.write_key.key_id] += 1
    return found


def _tenants(members: Sequence[Member]) -> Mapping[str, Counter[str]]:
    """Return how many key managers write with which key for each tenant."""
    found: dict[str, Counter[str]] = {}
    for each in chain.from_iterable(member.status.tenants for member in members if member.status is not None):
        if each.write_key is not None:
            found.setdefault(each.name, Counter())[each.write_key.key_id] += 1
    return found


def _other_keys(
    member: Member, keys: Mapping[Kind, Counter[str]], tenants: Mapping[str, Counter[str]]
) -> Iterator[str]:
    """Yield what there is to say of a member whose keys are not those of the rest."""
    key, of_kind, status = member.write_key, member.kind, member.status
    if status is None or of_kind is None:
        return
    if key is not None and len(keys[of_kind]) > 1:
        usual = _most(keys[of_kind])
        explained = of_kind is Kind.PROXY and any(key.key_id in counts for counts in tenants.values())
        if key.key_id != usual and not explained:
            whose = "than the rest" if usual is not None else "than others, and no key is that of most"
            yield f"another write key {whose}: kube-apiserver there may not follow"
    elsewhere = [each.name for each in status.tenants if _differs(each, tenants)]
    if elsewhere:
        more = f" and {len(elsewhere) - 1} more" if len(elsewhere) > 1 else ""
        yield f"another write key than on other key managers for tenant {elsewhere[0]}{more}"


def _differs(tenant: TenantStatus, tenants: Mapping[str, Counter[str]]) -> bool:
    if tenant.write_key is None:
        return False
    counts = tenants[tenant.name]
    return len(counts) > 1 and tenant.write_key.key_id != _most(counts)


def _most(counts: Counter[str]) -> str | None:
    """Return what most have; None if two are had by as many."""
    first = counts.most_common(2)
    if not first or (len(first) == 2 and first[0][1] == first[1][1]):
        return None
    return first[0][0]


def _traffic(kmsd: AdminClient, timeout: float) -> tuple[float | None, float | None]:
    """Return (requests per second, p99 in milliseconds); None for what a kmsd that has told its status does not
    tell."""
    with contextlib.suppress(ClientError), kmsd.watch_stats(history=RATE_SECONDS, timeout=timeout) as stream:
        for frame in stream:
            return _rate(frame.seconds)
    return None, None


def _rate(seconds: Sequence[Second]) -> tuple[float, float | None]:
    requests = sum(each.requests for each in seconds)
    return requests / max(1, len(seconds)), max((each.p99_ms for each in seconds if each.requests), default=None)
