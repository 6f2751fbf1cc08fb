"""Objects of one resource rewritten by updates that change nothing, which no value is read for.

kube-apiserver writes an update that changes nothing only if what is stored is stale (GuaranteedUpdate of
k8s.io/apiserver, storage/etcd3/store.go), and a KMS v2 value is stale when its key id is not the one of Status
(TransformFromStorage of storage/value/encrypt/envelope/kmsv2). The update is a merge patch that has nothing but the
resourceVersion: the object need not be read here for it, and if somebody else has written meanwhile it is a conflict.
What is asked for and answered is metadata alone (PartialObjectMetadata).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from kmsctl.kubeapi.connection import BUSY, PAUSE_FIRST, TRIES, KubeAnswer, KubeApi, TooLarge
from kmsctl.kubeapi.discovery import ApiResource, checked
from kmsctl.rewrite.pace import Pace
from kmsctl.rewrite.tally import ResourceTally
from kmsd.client import ClientError, Denied, Unreachable

PAGE: Final = 500
PAGES_MAX: Final = 20_000
PAGES_IDLE: Final = 3
"""Pages, one after another, that do not get on: lists go by name, and none of theirs comes after those before."""
STARTS_MAX: Final = 5
WORKERS: Final = 4
"""Updates under way at once."""
REFUSALS_MOST: Final = 20
"""Objects that the user may not patch, from the first on, after which the rest is not tried."""
TAKEN_MAX: Final = 5_000_000
"""Names that are remembered of one resource, so that a list that begins again writes none twice."""

_FORBIDDEN: Final = "403 Forbidden"
_META: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METAS: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_WEBHOOK: Final = re.compile(r'admission webhook "([A-Za-z0-9.-]{1,253})" denied')
_POLICY: Final = re.compile(r"ValidatingAdmissionPolicy '([A-Za-z0-9.-]{1,253})'")


class Metadata(msgspec.Struct, rename="camel"):
    """The metadata of an object that a rewriting looks at."""

    name: str
    namespace: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: Metadata


class _ListMetadata(msgspec.Struct, rename={"token": "continue", "remaining": "remainingItemCount"}):
    token: str = ""
    remaining: int | None = None


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    items: list[_Object]


class Updates:
    """The rewriting of one resource. wanted: the ends of the keys in etcd, `namespace/name`, of what is to be
    rewritten; None: all. tell: called whenever the tally has changed."""

    def __init__(
        self,
        api: KubeApi,
        resource: ApiResource,
        tally: ResourceTally,
        pace: Pace,
        tell: Callable[[], None],
        wanted: Iterable[str] | None = None,
    ) -> None:
        self._api = api
        self._resource = resource
        self._tally = tally
        self._pace = pace
        self._tell = tell
        self._wanted = None if wanted is None else {self._end(each) for each in wanted}
        self._taken: set[str] = set()
        self._last = ""
        self._idle = 0

    async def run(self) -> None:
        """Rewrite what there is, page by page. Raises ClientError where no more can be done."""
        token, limit, starts = "", PAGE, 1
        for _ in range(PAGES_MAX):
            try:
                answer = await self._page(token, limit)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            if answer.status == 410:
                starts += 1
                if starts > STARTS_MAX:
                    raise ClientError(
                        f"kube-apiserver forgot {STARTS_MAX} times where its list of {self._tally.resource} went on",
                        "it is slow, or compacts often: a higher --rewrite-rate may help",
                        retryable=True,
                    )
                token, self._last = self._instead(answer), ""
                continue
            page = self._parsed(answer)
            await self._write_all(self._fresh(page))
            followed, token = token, page.metadata.token
            if not token:
                self._tally.unserved = tuple(sorted(self._wanted or ()))
                return
            if token == followed or self._idle >= PAGES_IDLE:
                break
        raise ClientError(
            f"kube-apiserver's list of {self._tally.resource} has no end: the same comes again and again",
            "does something between here and kube-apiserver alter its answers?",
        )

    def _end(self, tail: str) -> str:
        """Return how a key in etcd ends for objects of this resource, from its last two parts."""
        return tail if self._resource.namespaced else tail.rpartition("/")[2]

    async def _page(self, token: str, limit: int) -> KubeAnswer:
        query = {"limit": str(limit), **({"continue": token} if token else {})}
        return await self._api.persist("GET", self._resource.path(), query=query, accept=_METAS)

    def _instead(self, answer: KubeAnswer) -> str:
        """Return where to go on after a continue token has expired: where the server says, else at the start."""
        metadata = answer.error().get("metadata")
        token = metadata.get("continue") if isinstance(metadata, dict) else None
        return token if isinstance(token, str) else ""

    def _parsed(self, answer: KubeAnswer) -> _Page:
        checked(answer, f"the list of {self._tally.resource}")
        try:
            page = msgspec.json.decode(answer.body, type=_Page)
        except (msgspec.DecodeError, RecursionError):
            raise ClientError(
                f"what answers gives no list of {self._tally.resource}", "is it a kube-apiserver?"
            ) from None
        if self._tally.wanted is None:
            self._tally.wanted = len(page.items) + (page.metadata.remaining or 0)
        return page

    def _fresh(self, page: _Page) -> list[Metadata]:
        """Return the objects of a page that are to be rewritten, each once however often it is listed."""
        found = []
        listed = [(self._end(f"{each.metadata.namespace}/{each.metadata.name}"), each.metadata) for each in page.items]
        last = max((end for end, _ in listed), default="")
        self._idle = 0 if last > self._last else self._idle + 1
        self._last = max(last, self._last)
        for end, metadata in listed:
            if self._wanted is None:
                new = end not in self._taken
                if len(self._taken) < TAKEN_MAX:
                    self._taken.add(end)
            else:
                new = end in self._wanted
                self._wanted.discard(end)
            if new:
                found.append(metadata)
        return found

    async def _write_all(self, objects: list[Metadata]) -> None:
        queue = iter(objects)

        async def work() -> None:
            for each in queue:
                await self._write(each)
                self._tell()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _write(self, metadata: Metadata) -> None:
        """Have one object written, trying again while the server is busy or away."""
        name = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
        path = self._resource.path(metadata.namespace, metadata.name)
        body = {"metadata": {"resourceVersion": metadata.resource_version}}
        pause = PAUSE_FIRST
        for left in reversed(range(TRIES)):
            await self._pace.turn()
            try:
                answer = await self._api.ask(
                    "PATCH",
                    path,
                    query={"fieldManager": "kmsctl"},
                    body=body,
                    accept=_META,
                    content="application/merge-patch+json",
                )
            except Unreachable:
                if not left:
                    raise
                self._pace.hold(pause)
            else:
                if answer.status not in BUSY or not left:
                    self._judge(name, metadata, answer)
                    return
                self._pace.hold(pause if answer.retry_after is None else min(answer.retry_after, 60.0))
            pause *= 2

    def _judge(self, name: str, metadata: Metadata, answer: KubeAnswer) -> None:
        """Count what came of an update."""
        tally = self._tally
        match answer.status:
            case 200 if self._version(answer) == metadata.resource_version:
                tally.unchanged += 1
                self._pace.spare()
            case 200:
                tally.rewritten += 1
            case 409:
                # Somebody else wrote it since it was listed, and that came under the new key.
                tally.others += 1
            case 404:
                tally.gone += 1
            case _:
                why = _why(answer)
                tally.refuse(name, why)
                if tally.done == tally.refusals >= REFUSALS_MOST and why == _FORBIDDEN:
                    raise Denied(
                        f"the user of the kubeconfig may not patch {tally.resource}",
                        "docs/rotation.md has the ClusterRole that is needed",
                        "PERMISSION_DENIED",
                    )

    def _version(self, answer: KubeAnswer) -> str:
        try:
            return msgspec.json.decode(answer.body, type=_Object).metadata.resource_version
        except (msgspec.DecodeError, RecursionError):
            raise ClientError(
                f"what answers gives no object for an update of {self._tally.resource}", "is it a kube-apiserver?"
            ) from None


def _why(answer: KubeAnswer) -> str:
    """Return why an update was refused, in words that hold nothing of the object: kube-apiserver's own sentence may."""
    error: Any = answer.error()
    sentence = error.get("message")
    for pattern, what in ((_WEBHOOK, "the admission webhook"), (_POLICY, "the ValidatingAdmissionPolicy")):
        if isinstance(sentence, str) and (found := pattern.search(sentence)):
            return f"{answer.status} {answer.reason} by {what} {found[1]}"
    return f"{answer.status} {answer.reason}"
