"""What a rewriting bears of a kube-apiserver is bounded, and every bound ends in a sentence or is got over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kmsctl.kubeapi import connection
from kmsctl.kubeapi.connection import KubeApi
from kmsctl.kubeapi.discovery import Discovery
from kmsctl.kubeapi.kubeconfig import read
from kmsctl.rewrite import migrations, updates
from kmsctl.rewrite.migrations import Migration
from kmsctl.rewrite.pace import Pace
from kmsctl.rewrite.tally import ResourceTally
from kmsd.client import ClientError, Denied
from tests.e2e.etcd import Etcd
from tests.e2e.plugin import Plugin
from tests.e2e.served import SECRETS, SVM, ServedApiServer, status


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_etcd: Etcd) -> Iterator[ServedApiServer]:
    home = tmp_path_factory.mktemp("b")
    plugin = Plugin(home / "kms.sock")
    server = ServedApiServer(home, shared_etcd, plugin.socket).start()
    yield server
    server.stop()
    plugin.stop()


@pytest.fixture
def server(whole: ServedApiServer, etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> ServedApiServer:
    """With an etcd that is empty, and a client that does not pause for long."""
    whole.fault, whole.controller = None, ""
    whole.requests.clear()
    whole.migrations.clear()
    monkeypatch.setattr(connection, "PAUSE_FIRST", 0.01)
    monkeypatch.setattr(updates, "PAUSE_FIRST", 0.01)
    monkeypatch.setattr(migrations, "POLL", 0.05)
    return whole


def using(server: ServedApiServer, work: Callable[[KubeApi], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with KubeApi(read(str(server.kubeconfig), ""), timeout=10) as api:
            return await work(api)

    return asyncio.run(run())


def rewrite(server: ServedApiServer, name: str = "secrets") -> ResourceTally:
    tally = ResourceTally(name)

    async def work(api: KubeApi) -> None:
        resource = await Discovery(api).find(name)
        assert resource is not None
        await updates.Updates(api, resource, tally, Pace(1000), lambda: None).run()

    using(server, work)
    return tally


def migrate(server: ServedApiServer) -> str:
    async def work(api: KubeApi) -> str:
        resource = await Discovery(api).find("secrets")
        assert resource is not None
        return await Migration(api, "v1beta1", resource, "turn").run(lambda _: None)

    found: str = using(server, work)
    return found


def answer(method: str, give: Callable[[web.Request], web.Response | None]) -> Any:
    """Return a fault that gives this answer to all requests of a method for Secrets."""

    async def fault(request: web.Request) -> web.Response | None:
        return give(request) if request.method == method and "/secrets" in request.path else None

    return fault


def test_a_list_whose_place_is_forgotten_for_ever_ends(server: ServedApiServer) -> None:
    server.fault = answer("GET", lambda _: status(410, "Expired"))
    with pytest.raises(ClientError, match="kube-apiserver forgot 5 times where its list of secrets went on"):
        rewrite(server)


def test_pages_that_are_too_large_are_asked_for_in_smaller_ones(
    server: ServedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        server.write(SECRETS, f"default/{'n' * 60}{number:02}")
    monkeypatch.setattr(connection, "BODY_MAX", 1000)
    assert rewrite(server).unchanged == 12
    monkeypatch.setattr(connection, "BODY_MAX", 100)
    with pytest.raises(ClientError, match="to one request"):
        rewrite(server)


def test_who_may_not_patch_is_told_after_twenty_refusals(server: ServedApiServer) -> None:
    for number in range(40):
        server.write(SECRETS, f"default/s{number}")
    server.fault = answer("PATCH", lambda _: status(403, "Forbidden", "no RBAC policy matched"))
    with pytest.raises(Denied, match="the user of the kubeconfig may not patch secrets"):
        rewrite(server)
    assert server.requests["PATCH"] <= 20 + updates.WORKERS


def test_a_server_that_stays_busy_is_asked_five_times_and_the_object_is_named(server: ServedApiServer) -> None:
    server.write(SECRETS, "default/a")
    server.fault = answer("PATCH", lambda _: status(500, "InternalError"))
    assert rewrite(server).refused == {"default/a": "500 InternalError"}
    assert server.requests["PATCH"] == connection.TRIES


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"items": 7}', '{"metadata": {}, "items": [{}]}'])
def test_what_is_no_list_is_told_as_such(server: ServedApiServer, body: str) -> None:
    server.fault = answer("GET", lambda _: web.Response(text=body))
    with pytest.raises(ClientError, match="what answers gives no list of secrets"):
        rewrite(server)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"groups": 7}', '{"groups": [' + "{}," * 2000 + "{}]}"])
def test_what_is_no_discovery_is_told_as_such(server: ServedApiServer, body: str) -> None:
    async def fault(request: web.Request) -> web.Response | None:
        return web.Response(text=body) if request.path == "/apis" else None

    server.fault = fault
    with pytest.raises(ClientError, match=r"answers no list of at most 2000 API groups|is no kube-apiserver"):
        using(server, lambda api: Discovery(api).find("secrets"))


@pytest.mark.parametrize("name", ["gadgets", "gadgets.example.org", "secrets.example.com", "?"])
def test_what_is_not_served_is_not_found(server: ServedApiServer, name: str) -> None:
    assert using(server, lambda api: Discovery(api).find(name)) is None


def test_a_migration_that_nobody_acts_on_is_removed_and_told(
    server: ServedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TAKEN_UP", 0.2)
    server.controller = "idle"
    assert "no controller acts on StorageVersionMigrations" in migrate(server)
    assert server.migrations == {}


def test_a_migration_of_an_earlier_run_is_taken_over(server: ServedApiServer) -> None:
    name = "kmsctl-turn-secrets"
    server.controller = "idle"
    server.migrations[name] = {"status": {"resourceVersion": "1"}}
    ended = {"status": {"conditions": [{"type": "Succeeded", "status": "True"}]}}

    async def fault(request: web.Request) -> web.Response | None:
        if request.method == "GET" and request.path.startswith(SVM) and server.requests["GET"] > 5:
            server.migrations[name] = ended
        return None

    server.fault = fault
    assert migrate(server) == ""
    assert server.requests["POST"] == 0
    assert server.migrations == {}


def test_a_migration_that_may_not_be_made_is_told(server: ServedApiServer) -> None:
    async def fault(request: web.Request) -> web.Response | None:
        return status(403, "Forbidden") if request.method == "POST" else None

    server.controller, server.fault = "works", fault
    assert migrate(server) == "no StorageVersionMigration can be made: 403 Forbidden"


def test_a_migration_that_outlasts_its_time_is_left_to_go_on(
    server: ServedApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(migrations, "LONGEST", 0.2)
    server.controller = "idle"
    server.migrations["kmsctl-turn-secrets"] = {"status": {"resourceVersion": "1"}}
    assert "is left to go on" in migrate(server)
    assert server.migrations
