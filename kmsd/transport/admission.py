"""Decide who may call what from another machine, and how often: tenants and admins, known by their certificates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kmsd.bucket import Bucket
from kmsd.errors import Denied, TooOften, short
from kmsd.transport.call import Call, Role
from kmsd.transport.caller import Identity
from kmsd.transport.peers import NamePattern, Peer, fitting
from kmsd.transport.seen_peers import SeenPeers
from kmsd.transport.tls import Revocations

_REMEMBERED: Final = 4096
"""Lists of names, as certificates have them, of which it is remembered whose they are."""
_ALWAYS: Final = frozenset({"Status", "Check", "Watch"})
"""Methods with a rate of their own, so that a tenant that is busy is not taken for one whose key manager is ill."""


@dataclass(frozen=True)
class TenantRule:
    """A tenant: the names that its certificates have, and its bounds.

    sans: patterns, of which one must fit a name of the certificate. max_rate: calls in a second, 0 for any number.
    max_in_flight: calls at once, 0 for any number.
    """

    name: str
    sans: tuple[NamePattern, ...]
    max_rate: float = 0.0
    max_in_flight: int = 0


@dataclass(frozen=True)
class AdminRule:
    """An admin: the names that the certificate has. sans: as of `TenantRule`. role: VIEWER or OPERATOR."""

    sans: tuple[NamePattern, ...]
    role: Role


@dataclass(slots=True)
class _Standing:
    """The use that a tenant has made of its bounds. buckets: by whether their methods have a rate of their own."""

    in_flight: int = 0
    buckets: dict[bool, Bucket] = field(default_factory=dict)


def overlaps(tenants: Sequence[TenantRule]) -> list[tuple[str, str, str]]:
    """Return pairs of tenants that one certificate would fit, each with a pattern of the first that shows it.

    A certificate that fits both stands for neither.
    """
    found = []
    for number, one in enumerate(tenants):
        for other in tenants[number + 1 :]:
            shared = next((mine for mine in one.sans for theirs in other.sans if mine.overlaps(theirs)), None)
            if shared is not None:
                found.append((one.name, other.name, shared.text))
    return found


class PeerAdmission:
    """The admission (`kmsd.transport.dispatch.Admission`) of callers with certificates. Belongs to one event loop.

    revocations: those of the configured file. revoked_here: certificates that the CA of this key manager has revoked.
    """

    def __init__(self) -> None:
        self.seen = SeenPeers()
        self.revocations = Revocations()
        self.revoked_here = Revocations()
        self._tenants: tuple[TenantRule, ...] = ()
        self._admins: tuple[AdminRule, ...] = ()
        self._standing: dict[str, _Standing] = {}
        self._known: dict[tuple[str, ...], tuple[tuple[TenantRule, ...], Role]] = {}
        self._inside: set[Call] = set()

    def rule(self, tenants: Sequence[TenantRule], admins: Sequence[AdminRule]) -> None:
        """Follow these rules from now on. What tenants have used of their bounds is kept."""
        self._tenants, self._admins = tuple(tenants), tuple(admins)
        self._standing = {each.name: self._standing.get(each.name) or _Standing() for each in tenants}
        self._known.clear()

    def in_flight(self, tenant: str) -> int:
        """Return how many calls of a tenant are under way."""
        standing = self._standing.get(tenant)
        return standing.in_flight if standing is not None else 0

    def admit(self, call: Call, role: Role, identity: Identity) -> None:
        """Let a call in if its certificate may make it, and write down its tenant. Raises Denied, Overloaded."""
        if not isinstance(identity, Peer):
            raise Denied("nobody vouches for who calls", "call with a client certificate")
        certificate = (identity.issuer, identity.serial)
        if certificate in self.revocations or certificate in self.revoked_here:
            raise Denied(
                f"the certificate with serial {identity.serial} ({short(identity.name)}) is revoked",
                "give this caller a new certificate",
            )
        if identity.not_after < time.time():
            raise Denied(
                f"the certificate with serial {identity.serial} ({short(identity.name)}) has expired",
                "give this caller a new certificate, and let it connect anew",
            )
        tenants, admin = self._who(identity)
        self.seen.called(identity, *_part(tenants, admin))
        if len(tenants) > 1:
            raise Denied(
                f"the certificate fits {len(tenants)} tenants ({', '.join(each.name for each in tenants[:4])}), so it "
                "stands for none",
                "let each name fit one tenant's san only",
            )
        if role in (Role.VIEWER, Role.OPERATOR):
            self._admit_admin(role, admin, identity)
        elif tenants:
            call.tenant = tenants[0].name
            call.caller = f"{call.caller} tenant={call.tenant}"
            self._limit(call, tenants[0])
        elif role is Role.TENANT or admin is Role.KNOWN:
            raise _stranger(identity, "tenants")

    def _admit_admin(self, role: Role, admin: Role, peer: Peer) -> None:
        if admin is Role.KNOWN:
            raise _stranger(peer, "admins")
        if admin < role:
            raise Denied(
                f"{short(peer.name)} is a {admin.name.lower()}, and this needs an {role.name.lower()}",
                f'give it role = "{role.name.lower()}" in [[admins]]',
            )

    def leave(self, call: Call) -> None:
        """Count a call that was let in, and has ended, as under way no longer."""
        if call in self._inside:
            self._inside.discard(call)
            standing = self._standing.get(call.tenant)
            if standing is not None:
                standing.in_flight = max(0, standing.in_flight - 1)

    def _who(self, peer: Peer) -> tuple[tuple[TenantRule, ...], Role]:
        known = self._known.get(peer.names)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            roles = [each.role for each in self._admins if fitting(each.sans, peer)]
            known = tuple(each for each in self._tenants if fitting(each.sans, peer)), max(roles, default=Role.KNOWN)
            self._known[peer.names] = known
        return known

    def _limit(self, call: Call, tenant: TenantRule) -> None:
        standing = self._standing[tenant.name]
        if tenant.max_in_flight and standing.in_flight >= tenant.max_in_flight:
            raise TooOften(
                f"tenant {tenant.name} has {tenant.max_in_flight} calls under way, which is all that it may",
                "try again when some have been answered; max_in_flight in [[tenants]] is the bound",
            )
        if tenant.max_rate:
            bucket = standing.buckets.setdefault(call.method in _ALWAYS, Bucket(max(tenant.max_rate, 1.0)))
            if wait := bucket.wait(tenant.max_rate):
                raise TooOften(
                    f"tenant {tenant.name} has made its {tenant.max_rate:g} calls of a second",
                    f"try again in {wait:.2f} s; max_rate in [[tenants]] is the bound",
                )
        standing.in_flight += 1
        self._inside.add(call)


def _part(tenants: Sequence[TenantRule], admin: Role) -> tuple[str, str]:
    """Return the tenant that a certificate stands for, empty for none, and its role in a word."""
    if len(tenants) == 1:
        return tenants[0].name, "tenant"
    return "", "none" if tenants or admin is Role.KNOWN else admin.name.lower()


def _stranger(peer: Peer, table: str) -> Denied:
    shown = ", ".join(short(name) for name in peer.names[:4]) or "no name at all (no subjectAltName)"
    return Denied(
        f"the certificate is for {shown}, which no entry of [[{table}]] has",
        f"put one of its names into san of the entry of [[{table}]] that it is meant for",
    )
