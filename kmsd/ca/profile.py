"""Say what a certificate of a node is like: lifetime, types of keys, and the names that a node gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from kmsd.errors import Denied, InvalidRequest, Misconfigured, NotFound, short
from kmsd.transport.peers import NamePattern

_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NODE_MOST: Final = 253
"""Characters of a node's name, which is a DNS name in Kubernetes."""
KEY_TYPES: Final = ("ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096")
"""The types of keys that a profile may allow."""


@dataclass(frozen=True)
class Profile:
    """The rules for certificates, which no request can change.

    key_types: those of KEY_TYPES that are taken. names: as "DNS:name" and "URI:uri" with {node} and {tenant} in them;
    empty: the names that `tenants` allows, with the node in the place of their one `*`. tenants: the names that each
    tenant's certificates may have. admins: the names of callers that are no tenants. lifetime: of a node's certificate.
    backdate: what it begins earlier, for clocks that are behind. crl_lifetime: until a list of revocations must be
    signed anew. crl_url: where that list is to be had; empty: certificates do not say so.
    """

    key_types: frozenset[str] = frozenset({"ec-p256", "ec-p384", "rsa-3072", "rsa-4096"})
    names: tuple[str, ...] = ()
    tenants: Mapping[str, Sequence[NamePattern]] = field(default_factory=dict)
    admins: Sequence[NamePattern] = ()
    lifetime: timedelta = timedelta(days=30)
    backdate: timedelta = timedelta(minutes=5)
    crl_lifetime: timedelta = timedelta(days=7)
    crl_url: str = ""

    def names_of(self, node: str, tenant: str) -> tuple[str, ...]:
        """Return the names that the certificate of a node has. Raises InvalidRequest, NotFound, Misconfigured and
        Denied."""
        if len(node) > _NODE_MOST or not _NODE.fullmatch(node):
            raise InvalidRequest(
                f"a node's name must be a DNS name in lower case of {_NODE_MOST} characters at most, got {short(node)}",
                "name the node as Kubernetes does: kubectl get nodes",
            )
        patterns = self._patterns(tenant)
        templates = self.names or tuple(
            pattern.text.replace("*", "{node}") for pattern in patterns if pattern.text.count("*") == 1
        )
        if not templates:
            raise Misconfigured(
                f"no name of tenant {tenant!r} has a place for the node's: its san have no single *",
                'say which names certificates get: ca.names = ["DNS:{node}.{tenant}"]',
            )
        names = tuple(dict.fromkeys(text.replace("{node}", node).replace("{tenant}", tenant) for text in templates))
        self.check_names(names, tenant)
        return names

    def check_names(self, names: Iterable[str], tenant: str) -> None:
        """Raise Denied unless these names are the tenant's, and nobody else's; NotFound for an unknown tenant."""
        own = self._patterns(tenant)
        shown = tuple(names)
        for name in shown:
            if any(pattern.fits(name) for pattern in self.admins):
                raise Denied(
                    f"the name {short(name)} is that of an admin: its owner could change keys",
                    "give the node another name, or the admins narrower ones ([[admins]] san)",
                )
            for other, patterns in self.tenants.items():
                if other != tenant and any(pattern.fits(name) for pattern in patterns):
                    raise Denied(
                        f"the name {short(name)} is one of tenant {other!r}, and the node is to be {tenant!r}'s",
                        "give the tenants names that differ ([[tenants]] san)",
                    )
        if not any(pattern.fits(name) for pattern in own for name in shown):
            allowed = ", ".join(pattern.text for pattern in own[:4])
            raise Denied(
                f"none of the names {', '.join(map(short, shown[:4]))} is one of tenant {tenant!r} ({allowed})",
                "a * stands for one part of a name, without dots; ca.names and [[tenants]] san must fit each other",
            )

    def _patterns(self, tenant: str) -> Sequence[NamePattern]:
        if tenant not in self.tenants:
            known = ", ".join(list(self.tenants)[:8]) or "none"
            raise NotFound(f"there is no tenant {short(tenant)}", f"the tenants are {known}")
        return self.tenants[tenant]
