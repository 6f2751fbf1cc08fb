"""kmsctl rotate --watch --rewrite: a real kmsd, a real etcd, and a kube-apiserver that answers HTTPS and misbehaves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import ClientError
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.e2e.conftest import ASSETS
from tests.e2e.encryption_config import Kms, document
from tests.e2e.etcd import Etcd
from tests.e2e.real import RealApiServer
from tests.e2e.served import CONFIG_MAPS, SECRETS, TOKEN, WIDGETS, ServedApiServer, status
from tests.pages import ROOT, blocks
from tests.tokens import SoftToken, make_token

QUICK = {"KMSD_KEYS__REFRESH": "0.2"}


def rotate(kmsd: Kmsd, token: SoftToken) -> str:
    """Return the old key's id, once its label says that it lost the write label a while ago, so that no scan comes too
    early."""
    old: str = kmsd.status().write_key.key_id
    kmsd.admin("RotateKey", pb.RotateKeyRequest())
    (label,) = (each.label for each in kmsd.admin("ListKeys").keys if each.key_id == old)
    earlier = (datetime.now(UTC) - timedelta(minutes=6)).strftime("k8s-kek@%Y%m%dT%H%M%SZ")
    token.relabel(label, earlier)
    wait_for(lambda: earlier in {each.label for each in kmsd.admin("ListKeys").keys})
    return old


@dataclass
class Cluster:
    """A kmsd, an etcd and a kube-apiserver."""

    kmsd: Kmsd
    token: SoftToken
    server: ServedApiServer

    def rotate(self) -> str:
        """Return the old key's id, once the kube-apiserver has followed."""
        old = rotate(self.kmsd, self.token)
        wait_for(lambda: self.kmsd.status().following.first_encrypt_unix_ms)
        return old

    def command(self, *arguments: str) -> list[str]:
        named = [f"--target={self.kmsd.admin_socket}", f"--endpoints={self.server.etcd.url}", "--scan-every=1s"]
        kube = ["--rewrite", f"--kubeconfig={self.server.kubeconfig}"]
        return [KMSCTL, "rotate", "--watch", "-o", "json", *named, *kube, *arguments]

    def run(self, *arguments: str, code: int = 0) -> Run:
        done = forkserver.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == code, (done.stdout[-3000:], done.stderr)
        assert TOKEN not in done.stdout + done.stderr
        return Run([json.loads(line) for line in done.stdout.splitlines()], done.stderr)

    def state(self, key_id: str) -> int:
        (found,) = (each.state for each in self.kmsd.admin("ListKeys").keys if each.key_id == key_id)
        return int(found)


@dataclass(frozen=True)
class Run:
    """What a kmsctl that has ended wrote."""

    events: list[dict[str, Any]]
    errors: str

    def rewritten(self, resource: str) -> dict[str, Any]:
        """Return the counts of the last pass over a resource."""
        return [each for each in self.events if each["event"] == "rewrite" and each["resource"] == resource][-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_etcd: Etcd) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("k")
    token = make_token(home / "hsm")
    folder = home / "d"
    folder.mkdir()
    kmsd = Kmsd(folder, token, ["--auto-create"], environment=QUICK)
    kmsd.start().wait_ok()
    server = ServedApiServer(home, shared_etcd, kmsd.socket).start()
    yield Cluster(kmsd, token, server)
    server.stop()
    kmsd.stop()


@pytest.fixture
def cluster(whole: Cluster, etcd: Etcd) -> Cluster:
    """With an etcd that is empty, and a kube-apiserver that behaves."""
    server = whole.server
    server.fault, server.controller, server.most_at_once, server.page_most = None, "", 0, 500
    server.requests.clear()
    server.migrations.clear()
    return whole


def answering(method: str, answers: list[Callable[[web.Request], web.Response]], part: str = "") -> Any:
    """Return a fault that gives these answers, one after the other, to requests of this kind."""

    async def fault(request: web.Request) -> web.Response | None:
        if request.method == method and part in request.path and answers:
            return answers.pop(0)(request)
        return None

    return fault


def test_one_command_rewrites_scans_and_retires_and_every_object_stays_what_it_was(cluster: Cluster) -> None:
    server = cluster.server
    objects = {
        (SECRETS, "default/a"): "one",
        (SECRETS, "kube-system/b"): "two",
        (CONFIG_MAPS, "default/a"): "three",
        (WIDGETS, "w"): "four",
    }
    server.write(SECRETS, "default/older", "zero")
    older = cluster.rotate()
    for (resource, end), content in objects.items():
        server.write(resource, end, content)
    old = cluster.rotate()
    server.write(SECRETS, "default/new", "five")
    done = cluster.run("--retire")
    assert [done.rewritten(each)["rewritten"] for each in ("secrets", "configmaps", "widgets.example.org")] == [3, 1, 1]
    assert server.requests["PATCH"] == 5, "what is under the new key is left alone"
    assert (cluster.state(old), cluster.state(older)) == (pb.KEY_STATE_ARCHIVED, pb.KEY_STATE_READABLE)
    assert {(resource, end): server.content(resource, end) for resource, end in objects} == objects
    new = cluster.kmsd.status().write_key.key_id
    assert set(server.key_ids(SECRETS)) == set(server.key_ids(WIDGETS)) == {new}


def test_killed_in_the_middle_the_same_command_goes_on_with_what_is_left(cluster: Cluster, tmp_path: Path) -> None:
    server = cluster.server
    for number in range(60):
        server.write(SECRETS, f"default/s{number:02}", str(number))
    old = cluster.rotate()
    with (tmp_path / "out").open("wb") as out:
        process = forkserver.Popen[bytes](
            cluster.command("--retire", "--rewrite-rate=40"), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    wait_for(lambda: server.requests["PATCH"] >= 20, 30)
    process.kill()
    process.wait()
    halfway = server.key_ids(SECRETS)[old]
    assert 0 < halfway <= 41
    assert cluster.state(old) == pb.KEY_STATE_READABLE
    server.requests.clear()
    done = cluster.run("--retire", "--rewrite-rate=1000")
    assert done.rewritten("secrets")["rewritten"] == server.requests["PATCH"] == halfway
    assert server.key_ids(SECRETS)[old] == 0
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED
    assert [server.content(SECRETS, f"default/s{number:02}") for number in range(60)] == list(map(str, range(60)))


def test_conflicts_deletions_and_a_busy_server_are_got_over(cluster: Cluster) -> None:
    server = cluster.server
    for name in ("busy", "deleted", "other", "still"):
        server.write(SECRETS, f"default/{name}")
    old = cluster.rotate()

    def somebody_writes(request: web.Request) -> web.Response:
        end = request.path.rpartition("/")[2]
        server.write(SECRETS, f"default/{end}", "somebody else's")
        return status(409, "Conflict")

    def somebody_deletes(request: web.Request) -> web.Response:
        server.etcd.delete(f"/registry/secrets/default/{request.path.rpartition('/')[2]}")
        return status(404, "NotFound")

    server.fault = answering(
        "PATCH",
        [
            lambda _: status(429, "TooManyRequests", **{"Retry-After": "1"}),
            lambda _: status(500, "InternalError"),
            somebody_writes,
            somebody_deletes,
        ],
    )
    began = time.monotonic()
    done = cluster.run("--retire")
    counts = done.rewritten("secrets")
    assert (counts["rewritten"], counts["written_by_others"], counts["gone"]) == (2, 1, 1)
    assert time.monotonic() - began > 1, "Retry-After was not heeded"
    assert server.key_ids(SECRETS)[old] == 0
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED


def test_what_a_webhook_refuses_is_named_without_its_sentence_and_the_old_key_stays(cluster: Cluster) -> None:
    server = cluster.server
    server.write(SECRETS, "default/good")
    server.write(SECRETS, "default/bad")
    server.write(CONFIG_MAPS, "default/good")
    server.etcd.put("/registry/example.org/gadgets/left", server.etcd.get("/registry/secrets/default/good") or b"")
    old = cluster.rotate()

    async def refuse(request: web.Request) -> web.Response | None:
        if request.path.endswith("/bad"):
            return status(403, "Forbidden", 'admission webhook "w.example.org" denied the request: hunter2')
        return None

    server.fault = refuse
    done = cluster.run("--retire", code=1)
    assert done.rewritten("secrets")["objects_refused"] == [
        {"name": "default/bad", "reason": "403 Forbidden by the admission webhook w.example.org"}
    ]
    assert done.rewritten("gadgets.example.org")["trouble"] == "kube-apiserver does not serve it"
    assert "2 objects still under the old key or a name that no key has, and rewriting does not help" in done.errors
    assert "change what was refused, or what refuses it" in done.errors
    assert "hunter2" not in done.errors + json.dumps(done.events)
    assert cluster.state(old) == pb.KEY_STATE_READABLE
    assert server.key_ids(SECRETS)[old] == 1


def test_a_list_goes_on_after_its_token_has_expired_and_over_pages(cluster: Cluster) -> None:
    server = cluster.server
    server.page_most = 20
    for number in range(50):
        server.write(SECRETS, f"default/s{number:02}")
    old = cluster.rotate()
    expired = [lambda _: status(410, "Expired")]

    async def expire(request: web.Request) -> web.Response | None:
        return expired.pop()(request) if "continue" in request.query and expired else None

    server.fault = expire
    done = cluster.run("--rewrite-rate=1000")
    assert not expired
    assert done.rewritten("secrets")["rewritten"] == server.requests["PATCH"] == 50
    assert server.key_ids(SECRETS)[old] == 0
    assert server.most_at_once <= 4


def test_a_list_without_end_ends_with_a_sentence(cluster: Cluster) -> None:
    server = cluster.server
    server.write(SECRETS, "default/a")
    cluster.rotate()

    async def endless(request: web.Request) -> web.Response | None:
        if request.path == "/api/v1/secrets":
            token = f"t{server.requests['GET']}"
            return web.json_response({"metadata": {"continue": token}, "items": [{"metadata": {"name": "z"}}]})
        return None

    server.fault = endless
    done = cluster.run(code=1)
    assert "kube-apiserver's list of secrets has no end" in done.rewritten("secrets")["trouble"]
    assert server.requests["GET"] < 40


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda _: status(403, "Forbidden"), "the user of the kubeconfig may not read the list of API groups"),
        (lambda _: status(401, "Unauthorized"), "does not accept the credentials of the context 'test'"),
    ],
    ids=["forbidden", "unauthorized"],
)
def test_who_is_refused_is_told_before_anything_is_rotated(
    cluster: Cluster, answer: Callable[[web.Request], web.Response], sentence: str
) -> None:
    before = cluster.kmsd.status().write_key.key_id
    cluster.server.fault = answering("GET", [answer], "/apis")
    done = cluster.run("--yes", "--again", code=4)
    assert sentence in done.errors
    assert cluster.kmsd.status().write_key.key_id == before


def test_a_kube_apiserver_that_may_not_have_followed_is_asked_again(cluster: Cluster, tmp_path: Path) -> None:
    server = cluster.server
    server.write(SECRETS, "default/a")
    old: str = cluster.kmsd.status().write_key.key_id
    cluster.kmsd.admin("RotateKey", pb.RotateKeyRequest())
    revision = server.etcd.list("/registry/secrets/", 1)[0][0].revision
    current = {"metadata": {"name": "a", "resourceVersion": str(revision)}}
    server.fault = answering("PATCH", [lambda _: web.json_response(current)])
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = forkserver.Popen[bytes](cluster.command(), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_for(lambda: out.read_text().count('"event":"rewrite"') == 2, 60)
    finally:
        process.kill()
        process.wait()
    found = [json.loads(line) for line in out.read_text().splitlines() if line.startswith("{")]
    passes = [(each["unchanged"], each["rewritten"]) for each in found if each["event"] == "rewrite"]
    assert passes == [(1, 0), (0, 1)]
    assert server.key_ids(SECRETS)[old] == 0


def test_a_server_whose_certificate_another_ca_has_signed_gets_no_token(cluster: Cluster, tmp_path: Path) -> None:
    from tests.etcd.server import Authority

    server = cluster.server
    right = server.kubeconfig.read_text()
    try:
        server.write_kubeconfig(Authority(tmp_path, "another").certificate.read_bytes())
        done = cluster.run("--yes", code=4)
    finally:
        server.kubeconfig.write_text(right)
    assert "TLS with https://127.0.0.1:" in done.errors
    assert not server.requests


def test_a_server_that_is_away_is_told_before_anything_is_rotated(cluster: Cluster, tmp_path: Path) -> None:
    text = cluster.server.kubeconfig.read_text().replace(f":{cluster.server.port}", ":9")
    (tmp_path / "away").write_text(text)
    done = cluster.run("--yes", f"--kubeconfig={tmp_path / 'away'}", code=3)
    assert "kube-apiserver at https://127.0.0.1:9 does not answer" in done.errors


def test_a_storage_version_migration_does_it_where_its_controller_works(cluster: Cluster) -> None:
    server = cluster.server
    server.controller = "works"
    server.write(SECRETS, "default/a")
    old = cluster.rotate()
    done = cluster.run("--retire")
    assert done.rewritten("secrets")["by"] == "migration"
    assert server.requests["PATCH"] == 0
    assert server.migrations == {}, "what was made is removed"
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED


def test_where_a_migration_fails_updates_do_it(cluster: Cluster) -> None:
    server = cluster.server
    server.controller = "fails"
    server.write(SECRETS, "default/a")
    old = cluster.rotate()
    counts = cluster.run("--retire").rewritten("secrets")
    assert (counts["by"], counts["rewritten"]) == ("updates", 1)
    assert counts["no_migration"] == "the StorageVersionMigration has failed"
    assert server.migrations == {}
    assert cluster.state(old) == pb.KEY_STATE_ARCHIVED


def test_without_a_scan_the_resources_that_are_named_are_rewritten_and_nothing_is_retired(cluster: Cluster) -> None:
    server = cluster.server
    server.write(SECRETS, "default/a")
    server.write(WIDGETS, "w")
    old = cluster.rotate()
    command = [each for each in cluster.command() if not each.startswith("--endpoints")]
    done = forkserver.run(
        [*command, "--rewrite-resource=secrets", "--rewrite-resource=widgets.example.org"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert server.key_ids(SECRETS)[old] == server.key_ids(WIDGETS)[old] == 0
    assert cluster.state(old) == pb.KEY_STATE_READABLE
    assert "kmsctl etcd scan --endpoints URL --report scan.json" in done.stderr


@pytest.mark.parametrize("how", ["hangs", "drips", "floods"])
def test_no_answer_takes_longer_or_more_room_than_it_may(
    cluster: Cluster, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmsctl.kubeapi import connection
    from kmsctl.kubeapi.kubeconfig import read

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if how == "hangs":
            await asyncio.sleep(9)
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(90):
                await answer.write(b"{" * (1 if how == "drips" else 1 << 16))
                await asyncio.sleep(0.1 if how == "drips" else 0)
        return answer

    cluster.server.fault = fault
    monkeypatch.setattr(connection, "BODY_MAX", 1 << 20)

    async def ask() -> None:
        async with connection.KubeApi(read(str(cluster.server.kubeconfig), ""), timeout=0.5) as api:
            await api.ask("GET", "/apis")

    sentence = "answers more than 1 MiB" if how == "floods" else "has not answered within 0.5 s"
    with pytest.raises(ClientError, match=sentence):
        asyncio.run(ask())


def test_a_client_certificate_in_the_kubeconfig_is_shown(cluster: Cluster) -> None:
    from kmsctl.kubeapi.connection import KubeApi
    from kmsctl.kubeapi.kubeconfig import read

    server = cluster.server
    certificate, key = (base64.b64encode(each.read_bytes()).decode() for each in server.authority.issue("admin"))
    right = server.kubeconfig.read_text()
    user = {"client-certificate-data": certificate, "client-key-data": key}
    access = read(str(server.write_kubeconfig(server.authority.certificate.read_bytes(), token="", **user)), "")
    server.kubeconfig.write_text(right)

    async def ask() -> int:
        async with KubeApi(access, timeout=5) as api:
            return (await api.ask("GET", "/apis")).status

    assert asyncio.run(ask()) == 200


SAVED = next(each for each in blocks(ROOT / "docs" / "disaster-recovery.md") if each.run == "tests/e2e/test_rewrite.py")


def test_what_a_destroyed_key_wrote_is_saved_by_a_kube_apiserver_that_still_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    """It has the seed in memory, and reads with that: docs/disaster-recovery.md, whose commands are run here."""
    server = cluster.server
    server.write(SECRETS, "default/a", "saved")
    cluster.kmsd.admin("DestroyKey", pb.DestroyKeyRequest(key="k8s-kek", confirm_label="k8s-kek"))
    (tmp_path / "admin.conf").write_text(server.kubeconfig.read_text())
    place = {
        "PATH": os.environ["PATH"],
        "KMSCTL_TARGET": str(cluster.kmsd.admin_socket),
        "ETCDCTL_ENDPOINTS": server.etcd.url,
    }
    for line in SAVED.text.splitlines():
        command = [KMSCTL if word == "kmsctl" else word for word in shlex.split(line, comments=True)]
        if "--watch" in command:
            # The scan that would retire comes five minutes later.
            process = forkserver.Popen(command, env=place, cwd=tmp_path, stdin=subprocess.DEVNULL)
            wait_for(lambda: set(server.key_ids(SECRETS)) == {cluster.kmsd.status().write_key.key_id}, 30)
            process.kill()
            process.wait()
        elif command[0] == KMSCTL:
            forkserver.run(command, env=place, cwd=tmp_path, stdin=subprocess.DEVNULL, check=True)
            wait_for(lambda: cluster.kmsd.status().following.first_encrypt_unix_ms)
    server.restart()
    assert server.content(SECRETS, "default/a") == "saved"


if ASSETS is not None:

    @pytest.mark.timeout(600)
    def test_a_real_kube_apiserver_writes_anew_what_is_under_the_old_key_and_nothing_else(
        start_kmsd: Callable[..., Kmsd], token: SoftToken, tmp_path: Path
    ) -> None:
        # Its own: it must not be another kube-apiserver that follows.
        kmsd = start_kmsd("--auto-create", environment=QUICK).wait_ok()
        real = RealApiServer(tmp_path, Path(ASSETS or ""))
        try:
            real.start(document(Kms("kmsd", "v2", kmsd.socket)))
            for name in ("one", "two"):
                real.create_secret(name, {"is": name.encode()})
            old = rotate(kmsd, token)
            named = [f"--target={kmsd.admin_socket}", f"--endpoints={real.etcd_url}", "--scan-every=1s"]
            kube = ["--rewrite", f"--kubeconfig={real.write_kubeconfig()}"]
            done = forkserver.run(
                [KMSCTL, "rotate", "--watch", "--retire", "-o", "json", *named, *kube],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            counts = Run([json.loads(line) for line in done.stdout.splitlines()], done.stderr).rewritten("secrets")
            assert (counts["rewritten"], counts["unchanged"], counts["refused"]) == (2, 0, 0)
            new = kmsd.status().write_key.key_id.encode()
            assert all(new in real.raw_stored(name) for name in ("one", "two"))
            assert {each.key_id: each.state for each in kmsd.admin("ListKeys").keys}[old] == pb.KEY_STATE_ARCHIVED
            assert real.read_secret("one") == {"is": b"one"}
        finally:
            real.stop()
