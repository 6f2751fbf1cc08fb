"""A kube-apiserver that answers HTTPS: discovery, lists, patches and StorageVersionMigrations over a real etcd and KMS.

Values go through a KMS v2 provider, an update that changes nothing is written only if what is stored is stale
(GuaranteedUpdate of k8s.io/apiserver), and resourceVersion is etcd's revision. It can be told to misbehave, request by
request.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.e2e.connection import HASTY, ProviderError
from tests.e2e.encrypted_object import EncryptedObject
from tests.e2e.encryption_config import Kms
from tests.e2e.etcd import Etcd
from tests.e2e.kubeconfig import write_kubeconfig
from tests.e2e.program import free_port
from tests.e2e.provider_v2 import ProviderV2
from tests.etcd.server import Authority

TOKEN = "kubeconfig-token-that-is-never-shown"
SVM = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations"
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass(frozen=True)
class Resource:
    """A resource that is served. prefix: of its keys in etcd."""

    group: str
    plural: str
    prefix: str
    namespaced: bool = True
    kind: str = "Object"

    @property
    def root(self) -> str:
        return f"/apis/{self.group}/v1" if self.group else "/api/v1"


SECRETS = Resource("", "secrets", "/registry/secrets/")
CONFIG_MAPS = Resource("", "configmaps", "/registry/configmaps/")
WIDGETS = Resource("example.org", "widgets", "/registry/example.org/widgets/", namespaced=False)


@dataclass
class ServedApiServer:
    """One kube-apiserver. resources: that are served. fault: may answer in its place. controller: what becomes of a
    StorageVersionMigration, "" for an API that is not served. page_most: objects of a page, whatever is asked for."""

    home: Path
    etcd: Etcd
    kms: Path
    resources: tuple[Resource, ...] = (SECRETS, CONFIG_MAPS, WIDGETS)
    controller: str = ""
    fault: Fault | None = None
    requests: Counter[str] = field(default_factory=Counter)
    migrations: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_at_once: int = 0
    page_most: int = 500
    provider: Any = None
    _now: int = 0

    def start(self) -> ServedApiServer:
        self.restart()
        self.authority = authority = Authority(self.home, "kube-ca")
        certificate, key = authority.issue("kube-apiserver")
        self.port = free_port()
        self.kubeconfig = self.home / "kube.conf"
        self.write_kubeconfig(authority.certificate.read_bytes())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._loop = asyncio.new_event_loop()
        up = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(context, up), daemon=True)
        self._thread.start()
        assert up.wait(20)
        return self

    def restart(self) -> None:
        """Forget every seed, as a kube-apiserver does that ends and begins again."""
        if self.provider is not None:
            self.provider.close()
        self.provider = ProviderV2(Kms("kmsd", "v2", self.kms), HASTY)
        self.provider.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self.provider.close()

    def write_kubeconfig(self, ca: bytes, *, token: str = TOKEN, **user: Any) -> Path:
        return write_kubeconfig(self.kubeconfig, self.port, ca, {**({"token": token} if token else {}), **user})

    def write(self, resource: Resource, end: str, content: str = "x") -> None:
        """Store an object as another client's write would. end: `namespace/name`, or `name`."""
        namespace, _, name = end.rpartition("/")
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        self._put(resource.prefix + end, {"metadata": metadata, "data": content})

    def content(self, resource: Resource, end: str) -> str:
        """Return what the object holds, read as a client would. Raises ProviderError if it cannot be decrypted."""
        return str(self._get(resource.prefix + end)[0]["data"])

    def key_ids(self, resource: Resource) -> Counter[str]:
        """Return how many objects are under which key id."""
        found, _, _ = self.etcd.list(resource.prefix, 100_000)
        return Counter(self._envelope(each.value).key_id for each in found)

    def rewrite_all(self, resource: Resource) -> None:
        found, _, _ = self.etcd.list(resource.prefix, 100_000)
        for each in found:
            self._put(each.key, self._get(each.key)[0])

    def _put(self, key: str, document: Mapping[str, Any], revision: int | None = None) -> int | None:
        stored = self.provider.prefix + self.provider.to_storage(json.dumps(document).encode(), key)
        return self.etcd.put_if(key, stored, revision)

    def _get(self, key: str) -> tuple[dict[str, Any], int, bool]:
        """Return an object, its revision, and whether what is stored is stale. Raises LookupError."""
        found, _, _ = self.etcd.list(key, 1, exact=True)
        if not found:
            raise LookupError(key)
        raw = found[0].value.removeprefix(self.provider.prefix)
        document: dict[str, Any] = json.loads(self.provider.from_storage(raw, key))
        state = self.provider._state
        assert state is not None
        return document, found[0].revision, self._envelope(found[0].value).key_id != state.envelope.key_id

    def _envelope(self, value: bytes) -> EncryptedObject:
        return EncryptedObject.from_bytes(value.removeprefix(self.provider.prefix))

    def _serve(self, context: ssl.SSLContext, up: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application(middlewares=[self._guard])
        for resource in self.resources:
            self._route(application, resource)
        application.router.add_get("/apis", self._groups)
        application.router.add_get("/api/v1", self._listing(""))
        for group in {each.group for each in self.resources} - {""}:
            application.router.add_get(f"/apis/{group}/v1", self._listing(group))
        application.router.add_post(SVM, self._make_migration)
        application.router.add_get(f"{SVM}/{{name}}", self._see_migration)
        application.router.add_delete(f"{SVM}/{{name}}", self._end_migration)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context).start())
        up.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests[request.method] += 1
        shown = request.transport is not None and request.transport.get_extra_info("peercert")
        if not shown and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return status(401, "Unauthorized")
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self.fault is not None and (answer := await self.fault(request)) is not None:
                return answer
            return await handler(request)
        except ProviderError as error:
            return status(500, "InternalError", str(error))
        finally:
            self._now -= 1

    def _route(self, application: web.Application, resource: Resource) -> None:
        async def listed(request: web.Request) -> web.Response:
            return await asyncio.to_thread(self._list, resource, request)

        async def patched(request: web.Request) -> web.Response:
            return await asyncio.to_thread(self._patch, resource, request, await request.json())

        one = "/namespaces/{namespace}" if resource.namespaced else ""
        application.router.add_get(f"{resource.root}/{resource.plural}", listed)
        application.router.add_patch(f"{resource.root}{one}/{resource.plural}/{{name}}", patched)

    async def _groups(self, request: web.Request) -> web.Response:
        names = {each.group: "v1" for each in self.resources if each.group}
        if self.controller:
            names["storagemigration.k8s.io"] = "v1beta1"
        groups = [{"name": name, "versions": [{"version": version}]} for name, version in names.items()]
        return web.json_response({"kind": "APIGroupList", "groups": groups})

    def _listing(self, group: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        verbs = ["create", "get", "list", "patch", "update"]
        found = [
            {"name": each.plural, "namespaced": each.namespaced, "kind": each.kind, "verbs": verbs}
            for each in self.resources
            if each.group == group
        ]

        async def answer(request: web.Request) -> web.Response:
            return web.json_response({"kind": "APIResourceList", "resources": found})

        return answer

    def _list(self, resource: Resource, request: web.Request) -> web.Response:
        assert "as=PartialObjectMetadataList" in request.headers["Accept"], "the values are asked for"
        token = json.loads(base64.b64decode(request.query.get("continue", "") or "e30="))
        found, revision, left = self.etcd.list(
            resource.prefix,
            min(int(request.query["limit"]), self.page_most),
            start=token.get("start"),
            revision=token.get("revision", 0),
        )
        items = [{"metadata": self._metadata(each.key, each.revision)} for each in found]
        metadata: dict[str, Any] = {"resourceVersion": str(revision)}
        if left:
            after = {"start": found[-1].key + "\0", "revision": revision}
            metadata |= {"continue": base64.b64encode(json.dumps(after).encode()).decode(), "remainingItemCount": left}
        return web.json_response({"kind": "PartialObjectMetadataList", "metadata": metadata, "items": items})

    def _metadata(self, key: str, revision: int) -> dict[str, str]:
        return {**self._get(key)[0]["metadata"], "resourceVersion": str(revision)}

    def _patch(self, resource: Resource, request: web.Request, patch: Mapping[str, Any]) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        assert "as=PartialObjectMetadata;" in request.headers["Accept"]
        assert patch.keys() == {"metadata"}
        assert patch["metadata"].keys() == {"resourceVersion"}
        key = resource.prefix + "/".join(
            filter(None, (request.match_info.get("namespace"), request.match_info["name"]))
        )
        try:
            document, revision, stale = self._get(key)
        except LookupError:
            return status(404, "NotFound")
        if patch["metadata"]["resourceVersion"] != str(revision):
            return status(409, "Conflict")
        if stale:
            written = self._put(key, document, revision)
            if written is None:
                return status(409, "Conflict")
            revision = written
        metadata = {**document["metadata"], "resourceVersion": str(revision)}
        return web.json_response({"kind": "PartialObjectMetadata", "metadata": metadata})

    async def _make_migration(self, request: web.Request) -> web.Response:
        made = await request.json()
        name = made["metadata"]["name"]
        if name in self.migrations:
            return status(409, "AlreadyExists")
        self.migrations[name] = made
        if self.controller == "works":
            plural = made["spec"]["resource"]["resource"]
            (resource,) = (each for each in self.resources if each.plural == plural)
            await asyncio.to_thread(self.rewrite_all, resource)
        if self.controller != "idle":
            kind = "Succeeded" if self.controller == "works" else "Failed"
            made["status"] = {"resourceVersion": "1", "conditions": [{"type": kind, "status": "True"}]}
        return web.json_response(made, status=201)

    async def _see_migration(self, request: web.Request) -> web.Response:
        found = self.migrations.get(request.match_info["name"])
        return status(404, "NotFound") if found is None else web.json_response(found)

    async def _end_migration(self, request: web.Request) -> web.Response:
        self.migrations.pop(request.match_info["name"], None)
        return web.json_response({"kind": "Status", "status": "Success"})


def status(code: int, reason: str, message: str = "", **headers: str) -> web.Response:
    """Return an error as kube-apiserver gives it."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return web.json_response({**document, "code": code}, status=code, headers=headers)
