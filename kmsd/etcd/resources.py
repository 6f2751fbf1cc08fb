"""Which resource a key in etcd belongs to, called as kubectl calls it. Pure."""

from __future__ import annotations

import re
from typing import Final

ROOTS: Final = ("/registry/", "/kubernetes.io/")
"""Where kube-apiserver keeps its objects by default, and where OpenShift does."""

_SPECIAL: Final = {
    "minions": "nodes",
    "controllers": "replicationcontrollers",
    "services/specs": "services",
    "services/endpoints": "endpoints",
    "ingress": "ingresses",
}
"""SpecialDefaultResourcePrefixes of k8s.io/kubernetes, pkg/kubeapiserver."""

NAME_MAX: Final = 256
"""Octets of the key that go into a name, at most."""
_NAMEABLE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def root(prefix: str) -> str:
    """The part of the keys before the resource, for a scan of `prefix`; both end with a slash."""
    for known in ROOTS:
        if prefix.startswith(known):
            return known
    return prefix


def resource(key: bytes, root: bytes) -> str:
    """`secrets`, or `ciliumnodes.cilium.io`, from `/registry/secrets/default/x`; bounded."""
    parts = key[len(root) :].split(b"/", 3) if key.startswith(root) else []
    if len(parts) < 2:
        return "?"
    return _name(parts[0], parts[1])


def _name(first: bytes, second: bytes) -> str:
    head = _text(first)
    if head == "services":
        return _SPECIAL.get(f"services/{_text(second)}", "services")
    if head in _SPECIAL:
        return _SPECIAL[head]
    # Only a group's name has dots, and only custom and aggregated resources are kept below one.
    return f"{_text(second)}.{head}" if "." in head else head


def _text(part: bytes) -> str:
    return part[: NAME_MAX // 2].decode(errors="backslashreplace")


def nameable(resource: str) -> bool:
    """Whether the name can stand in a command as it is."""
    return len(resource) <= NAME_MAX and _NAMEABLE.fullmatch(resource) is not None
