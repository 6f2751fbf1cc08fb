"""Discovery of what a kube-apiserver serves: group, version and verbs of a resource that etcd holds.

Knows the documents of discovery, and asks for each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from kmsctl.kubeapi.connection import KubeAnswer, KubeApi
from kmsd.client import ClientError, Denied

GROUPS_MAX: Final = 2000
RESOURCES_MAX: Final = 10_000
"""Resources of one group."""


@dataclass(frozen=True)
class ApiResource:
    """A resource that is served. group: empty for the core. plural: its name in paths."""

    group: str
    version: str
    plural: str
    namespaced: bool
    verbs: frozenset[str]

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of the collection, of all namespaces if none is named, or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


class Discovery:
    """The groups and resources that one kube-apiserver serves, as it said when it was asked first."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._groups: dict[str, tuple[str, ...]] | None = None
        self._resources: dict[str, dict[str, ApiResource]] = {}

    async def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Return the groups with their versions, the preferred one first; the core is the group ''. Raises
        ClientError."""
        if self._groups is None:
            answer = checked(await self._api.persist("GET", "/apis"), "the list of API groups")
            listed = answer.document().get("groups")
            if not isinstance(listed, list) or len(listed) > GROUPS_MAX:
                raise ClientError(f"{self._api.server} answers no list of at most {GROUPS_MAX} API groups")
            self._groups = {"": ("v1",), **dict(_groups(listed))}
        return self._groups

    async def find(self, resource: str) -> ApiResource | None:
        """Return a resource by the name that a scan of etcd gives it: `secrets`, or `ciliumnodes.cilium.io`. None if
        it is not served. Raises ClientError."""
        plural, _, group = resource.partition(".")
        groups = await self.groups()
        if group:
            candidates = [group] if group in groups else []
        else:
            # Kubernetes keeps its own groups without their names in etcd; aggregated servers may, too.
            candidates = sorted(groups, key=lambda each: (each != "", "." in each, not each.endswith(".k8s.io")))
        for each in candidates:
            if (found := (await self._served(each)).get(plural)) is not None:
                return found
        return None

    async def _served(self, group: str) -> Mapping[str, ApiResource]:
        if group not in self._resources:
            found: dict[str, ApiResource] = {}
            for version in (await self.groups())[group]:
                for each in await self._in_version(group, version):
                    found.setdefault(each.plural, each)
            self._resources[group] = found
        return self._resources[group]

    async def _in_version(self, group: str, version: str) -> list[ApiResource]:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        answer = await self._api.persist("GET", path)
        if not answer.ok:
            return []  # an aggregated API that is away: what it would serve is not served now
        listed = answer.document().get("resources")
        if not isinstance(listed, list) or len(listed) > RESOURCES_MAX:
            raise ClientError(f"{self._api.server} answers no list of at most {RESOURCES_MAX} resources at {path}")
        return list(_resources(group, version, listed))


def checked(answer: KubeAnswer, what: str) -> KubeAnswer:
    """Return an answer that is one. Raises Denied if the user may not have it, else ClientError."""
    if answer.ok:
        return answer
    if answer.status == 403:
        raise Denied(
            f"the user of the kubeconfig may not read {what}",
            "docs/rotation.md has the ClusterRole that is needed",
            "PERMISSION_DENIED",
        )
    raise ClientError(
        f"kube-apiserver does not give {what}: {answer.status} {answer.reason}",
        "its log says why",
        retryable=answer.status >= 500,
    )


def _groups(listed: Sequence[Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for each in listed:
        match each:
            case {"name": str(name), "versions": list(versions)} if name:
                found = [version["version"] for version in versions if isinstance(version, dict)]
                preferred = (each.get("preferredVersion") or {}).get("version")
                yield name, tuple(sorted(map(str, found), key=lambda version: version != preferred))


def _resources(group: str, version: str, listed: Sequence[Any]) -> Iterator[ApiResource]:
    for each in listed:
        match each:
            case {"name": str(name), "namespaced": bool(namespaced), "verbs": list(verbs)} if "/" not in name:
                yield ApiResource(group, version, name, namespaced, frozenset(map(str, verbs)))
