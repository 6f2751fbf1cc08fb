"""A resource rewritten by kube-controller-manager: a StorageVersionMigration (KEP-4192), made, watched and removed.

Its controller patches every object of the resource without changing it. It runs only where the feature gate
StorageVersionMigrator is on; where the API is served and nobody acts on it, this says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kmsctl.kubeapi.connection import KubeApi
from kmsctl.kubeapi.discovery import ApiResource, Discovery, checked

GROUP: Final = "storagemigration.k8s.io"
VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")
"""The versions that are known, the best first."""
POLL: Final = 1.0
"""Seconds between two looks."""
TAKEN_UP: Final = 30.0
"""Seconds in which a controller that runs notes something in the status."""
LONGEST: Final = 3600.0
"""Seconds after which a migration is not waited for any longer."""
LABEL: Final = "app.kubernetes.io/managed-by"
_NAME_MAX: Final = 253


@dataclass(frozen=True)
class _State:
    """A look at a migration. begun: whether anybody has noted anything. ended: Succeeded or Failed; empty before."""

    begun: bool = False
    ended: str = ""


async def version_of(discovery: Discovery) -> str:
    """Return the version in which StorageVersionMigrations are served; empty if they are not. Raises ClientError."""
    served = (await discovery.groups()).get(GROUP, ())
    return next((each for each in VERSIONS if each in served), "")


class Migration:
    """A migration of one resource. turn: what the name is made of beside the resource, so that whoever goes on with the
    same rotation finds it again."""

    def __init__(self, api: KubeApi, version: str, resource: ApiResource, turn: str) -> None:
        self._api = api
        self._version = version
        self._resource = resource
        name = ".".join(filter(None, (resource.plural, resource.group)))
        self._name = f"kmsctl-{turn}-{name}"[:_NAME_MAX].rstrip("-.")
        self._collection = f"/apis/{GROUP}/{version}/storageversionmigrations"

    async def run(self, tell: Callable[[str], None]) -> str:
        """Have all objects of the resource rewritten. tell: gets what goes on. Return why it was not to be done this
        way; empty if it was done. Raises ClientError where nothing can be asked."""
        if trouble := await self._make():
            return trouble
        trouble = await self._follow(tell)
        # One that is still at work stays: it goes on whatever happens here, and is found again.
        if trouble != _STILL:
            await self._api.persist("DELETE", self._path)
        return trouble

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._name}"

    async def _make(self) -> str:
        """Make it, or take over the one that is there; one that has ended did so before what is to be done now."""
        found = await self._look()
        if found is not None and found.ended:
            await self._api.persist("DELETE", self._path)
            found = None
        if found is not None:
            return ""
        resource = {"group": self._resource.group, "resource": self._resource.plural}
        if self._version == "v1alpha1":
            resource["version"] = self._resource.version
        document = {
            "apiVersion": f"{GROUP}/{self._version}",
            "kind": "StorageVersionMigration",
            "metadata": {"name": self._name, "labels": {LABEL: "kmsctl"}},
            "spec": {"resource": resource},
        }
        answer = await self._api.persist("POST", self._collection, body=document)
        if answer.ok or answer.status == 409:
            return ""
        return f"no StorageVersionMigration can be made: {answer.status} {answer.reason}"

    async def _follow(self, tell: Callable[[str], None]) -> str:
        began = time.monotonic()
        while True:
            state = await self._look()
            lasts = time.monotonic() - began
            if state is None:
                return f"somebody has deleted the StorageVersionMigration {self._name}"
            if state.ended:
                return "" if state.ended == "Succeeded" else "the StorageVersionMigration has failed"
            if not state.begun and lasts > TAKEN_UP:
                return (
                    "no controller acts on StorageVersionMigrations: the feature gate StorageVersionMigrator of "
                    "kube-controller-manager is off"
                )
            if lasts > LONGEST:
                return _STILL
            tell(f"kube-controller-manager migrates, {lasts:.0f} s")
            await asyncio.sleep(POLL)

    async def _look(self) -> _State | None:
        """Return how it stands; None if it is not there."""
        answer = await self._api.persist("GET", self._path)
        if answer.status == 404:
            return None
        status = checked(answer, f"the StorageVersionMigration {self._name}").document().get("status")
        if not isinstance(status, dict) or not status:
            return _State()
        return _State(True, next(filter(None, map(_ended, status.get("conditions") or ())), ""))


_STILL: Final = f"the StorageVersionMigration has not ended within {LONGEST:g} s, and is left to go on"


def _ended(condition: Mapping[str, Any]) -> str:
    match condition:
        case {"type": "Succeeded" | "Failed" as kind, "status": "True"}:
            return str(kind)
    return ""
