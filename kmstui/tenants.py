"""The tenants of a key manager, as they are shown: their order, how far each has followed, what ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kmsd.client import ServingState, Status, TenantStatus, escape
from kmsd.client.rotation import StageProgress
from kmsd.client.timeline import follows
from kmstui.styles import BAD, GOOD, WARN, Colour
from kmstui.text import age, duration
from kmstui.view import Peer, View

_ORDER = {ServingState.DOWN: 0, ServingState.UNKNOWN: 1, ServingState.DEGRADED: 2, ServingState.SERVING: 3}
_SOON = timedelta(days=14)
"""Time before the end of a certificate in which kmsd may warn of it."""


@dataclass(frozen=True)
class Followed:
    """A statement of how far the kube-apiservers of a tenant have followed to its write key. short: for a column. text:
    a sentence without a full stop."""

    glyph: str
    colour: Colour
    short: str
    text: str

    def __str__(self) -> str:
        return f"{self.glyph} {self.short}" if self.glyph else self.short


def order(tenant: TenantStatus) -> tuple[int, str]:
    """Return what tenants are sorted by: those that are not served first, then those that have problems."""
    return _ORDER[tenant.state], tenant.name


def tally(tenants: tuple[TenantStatus, ...], *, brief: bool = False) -> tuple[str, str]:
    """Return the glyph and the words for how many tenants are served. brief: for a place where it says that already."""
    down = sum(each.state not in (ServingState.SERVING, ServingState.DEGRADED) for each in tenants)
    doubtful = sum(each.state is ServingState.DEGRADED for each in tenants)
    served = "" if brief and doubtful else " served"
    words = f"{len(tenants) - down:,} of {len(tenants):,}{served}{f', {doubtful:,} degraded' if doubtful else ''}"
    return BAD if down == len(tenants) else WARN if down or doubtful else GOOD, words


def followed(tenant: TenantStatus, now: datetime) -> Followed:
    """Return how far a tenant's kube-apiservers have followed, in the words of the timeline of a rotation."""
    following = tenant.following
    if following.first_status is None and following.first_encrypt is None and not following.previous_key_id:
        return Followed("", Colour.PLAIN, "-", "nobody has asked for this key yet")
    node = follows(tenant.name, following, following.since, now)
    if node.progress is StageProgress.DONE:
        if node.at is not None:
            return Followed(GOOD, Colour.GOOD, age(node.at, now), f"{age(node.at, now)} ago")
        return Followed(GOOD, Colour.GOOD, "yes", node.text or "kube-apiserver encrypts with this key")
    if node.progress is StageProgress.STUCK:
        return Followed(WARN, Colour.WARN, "late", node.text)
    left = f" ≤ {duration((node.due - now).total_seconds())}" if node.due is not None else ""
    return Followed("…", Colour.WARN, left.strip() or "awaited", f"{node.text}{left}")


def ends(tenant: TenantStatus, now: datetime) -> tuple[str, Colour]:
    """Return when the first certificate of a tenant's callers ends, for a column."""
    if tenant.first_end is None:
        return "-", Colour.PLAIN
    left = tenant.first_end - now
    if left <= timedelta():
        return "ended", Colour.BAD
    # A short-lived one is renewed in time, and then kmsd has nothing to say of it.
    warns = bool(tenant.problems) and left < _SOON
    return age(now, tenant.first_end), Colour.WARN if warns else Colour.PLAIN


def why(tenant: TenantStatus) -> str:
    """Return what is wrong with a tenant, the worst first; empty if nothing is."""
    worst = next((each.message for each in tenant.problems), "")
    return worst or ("" if tenant.healthz == "ok" else tenant.healthz)


def find(view: View, name: str) -> TenantStatus | None:
    """Return a tenant by its name; None if there is none."""
    status = view.status.value
    return next((each for each in status.tenants if each.name == name), None) if status is not None and name else None


def as_own(view: View, name: str) -> View:
    """Return the View in which a tenant's key stands in the place of kmsd's own, on the other targets, too; those that
    say that they do not have the tenant are left out. The same View if there is no such tenant."""
    tenant = find(view, name)
    status = view.status.value
    if tenant is None or status is None:
        return view
    there = tuple(peer for each in view.peers if (peer := _peer(each, name)) is not None)
    kept = {each.target for each in there} | {view.target}
    nodes = tuple(each for each in view.nodes or (view.target,) if each in kept)
    own = _own(status, name)
    return replace(view, status=replace(view.status, value=own), peers=there, nodes=nodes)


def _peer(peer: Peer, name: str) -> Peer | None:
    """Return another target with a tenant's key in the place of its own; None if it has no such tenant."""
    status = peer.status.value
    if status is None:
        return peer  # it has never answered, and may have it
    own = _own(status, name)
    return Peer(peer.target, replace(peer.status, value=own)) if own is not None else None


def _own(status: Status, name: str) -> Status | None:
    """Return the status with what a tenant has in the place of what kmsd has itself; None if there is no such
    tenant."""
    tenant = next((each for each in status.tenants if each.name == name), None)
    if tenant is None:
        return None
    return replace(
        status,
        write_label=tenant.write_label,
        write_key=tenant.write_key,
        outgoing_key=tenant.write_key,
        following=tenant.following,
        healthz=tenant.healthz,
        hint=tenant.hint,
        state=tenant.state,
    )


def named(tenant: TenantStatus) -> str:
    """Return the name of a tenant, to be shown."""
    return escape(tenant.name)
