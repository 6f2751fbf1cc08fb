"""Tell which resource a key in etcd belongs to, called as kubectl calls it. Pure."""

from __future__ import annotations

import re
from typing import Final

ROOTS: Final = ("/registry/", "/kubernetes.io/", "/openshift.io/")
"""The prefixes under which kube-apiserver keeps its objects by default, and those of the two of OpenShift."""
OWN: Final = frozenset({"ranges", "masterleases", "peerserverleases"})
"""The resources that kube-apiserver keeps for itself and no API serves: the allocation of Service IPs and node ports,
and who of several is alive. It writes them anew by itself within minutes (its repair of the allocations, each
renewal)."""
GONE: Final = frozenset({"podsecuritypolicies"})
"""The resources that Kubernetes has served no more since 1.25, so that kubectl does not find what is left of it."""

_SPECIAL: Final = {
    "minions": "nodes",
    "controllers": "replicationcontrollers",
    "services/specs": "services",
    "services/endpoints": "endpoints",
    "ingress": "ingresses",
    "podsecuritypolicy": "podsecuritypolicies",
    "oauth/accesstokens": "oauthaccesstokens.oauth.openshift.io",
    "oauth/authorizetokens": "oauthauthorizetokens.oauth.openshift.io",
}
"""SpecialDefaultResourcePrefixes of k8s.io/kubernetes, pkg/kubeapiserver, and those of OpenShift that it encrypts."""

NAME_MAX: Final = 256
"""Octets of the key that go into a name, at most."""
_NAMEABLE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def root(prefix: str) -> str:
    """Return the part of the keys before the resource, for a scan of `prefix`; both end with a slash."""
    for known in ROOTS:
        if prefix.startswith(known):
            return known
    return prefix


def resource(key: bytes, root: bytes) -> str:
    """Return `secrets`, or `ciliumnodes.cilium.io`, from `/registry/secrets/default/x`; bounded."""
    if root == b"/":
        root = next((known for each in ROOTS if key.startswith(known := each.encode())), root)
    parts = key[len(root) :].split(b"/", 3) if key.startswith(root) else []
    if len(parts) < 2:
        return "?"
    return _name(parts[0], parts[1])


def _name(first: bytes, second: bytes) -> str:
    head = _text(first)
    if head == "services":
        return _SPECIAL.get(f"services/{_text(second)}", "services")
    if special := _SPECIAL.get(head) or _SPECIAL.get(f"{head}/{_text(second)}"):
        return special
    # Only a group's name has dots, and only custom and aggregated resources are kept below one.
    return f"{_text(second)}.{head}" if "." in head else head


def _text(part: bytes) -> str:
    return part[: NAME_MAX // 2].decode(errors="backslashreplace")


def nameable(resource: str) -> bool:
    """Return whether the name can stand in a command as it is."""
    return len(resource) <= NAME_MAX and _NAMEABLE.fullmatch(resource) is not None


def rewritable(resource: str) -> bool:
    """Return whether kubectl can rewrite it, by a command that has its name."""
    return nameable(resource) and resource not in OWN | GONE
