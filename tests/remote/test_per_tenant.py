"""What belongs to one tenant is told, changed and proven for that tenant alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client import kms_connect
from tests import forkserver
from tests.chaos import clock
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, TENANTS, Client, Manager, decrypt, well
from tests.rpc.refusals import refusal

DAY_MS = 86_400_000


def kmsctl(kmsd: Kmsd, *words: str) -> str:
    """What kmsctl prints of this kmsd."""
    argv = [KMSCTL, *words, f"--target={kmsd.admin_socket}"]
    done: str = forkserver.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    return done


def tenant(manager: Manager, name: str) -> pb.GetStatusResponse.TenantStatus:
    return next(each for each in manager.kmsd.status().tenants if each.name == name)


def scanned(*labels_or_ids: str, objects: int = 3) -> pb.ScanReport:
    """The report of a scan just now that found objects under these names."""
    now = int(time.time() * 1000)
    uses = [pb.ScanReport.Use(key_id=name, objects=objects) for name in labels_or_ids]
    return pb.ScanReport(
        started_unix_ms=now - 400, finished_unix_ms=now - 200, prefix="/registry", objects=100, uses=uses
    )


def test_rate_calls_and_callers_are_told_of_each_tenant(manager: Manager, ca: Authority) -> None:
    node = ca.issue("a7", "DNS:node-7.cluster-a.test", "URI:spiffe://cluster-a/kms/node-7")
    client = Client(manager.channel(node))
    for _ in range(20):
        client.encrypt(b"x" * 32)
    a = wait_for(lambda: (found := tenant(manager, "cluster-a")).requests_per_second >= 2 and found)
    b = tenant(manager, "cluster-b")
    assert (a.requests, a.errors, a.peers) == (20, 0, 1)
    assert a.requests_per_second == pytest.approx(2.0)
    assert a.p99_ms > 0
    assert (b.requests, b.requests_per_second, b.peers, b.first_end_unix_ms) == (0, 0, 0, 0)
    (peer,) = manager.kmsd.admin("ListPeers", pb.ListPeersRequest(tenant="cluster-a")).peers
    assert (peer.name, peer.tenant, peer.role) == ("DNS:node-7.cluster-a.test", "cluster-a", "tenant")
    assert (peer.tls_version, peer.connections, peer.calls) == ("TLSv1.3", 1, 20)
    assert peer.cipher.startswith("TLS_")
    assert peer.group in ("x25519", "X25519MLKEM768", "secp256r1")
    assert peer.not_after_unix_ms == a.first_end_unix_ms > time.time() * 1000 + 30 * DAY_MS
    assert not manager.kmsd.admin("ListPeers", pb.ListPeersRequest(tenant="cluster-b")).peers
    assert "cluster-c" in refusal(manager.kmsd.admin, "ListPeers", pb.ListPeersRequest(tenant="cluster-c")).details
    listed = json.loads(kmsctl(manager.kmsd, "peers", "-o", "json"))["peers"]
    assert [each["serial"] for each in listed] == [peer.serial]
    rows = kmsctl(manager.kmsd, "tenants").splitlines()
    assert rows[0].split()[:3] == ["TENANT", "STATE", "LABEL"]
    assert rows[1].split()[:3] == ["cluster-a", "SERVING", "kek-a"]


def test_requests_audit_and_statistics_are_chosen_by_tenant(manager: Manager, ca: Authority) -> None:
    Client(manager.channel(ca.issue("a7", "DNS:node-7.cluster-a.test"))).encrypt(b"x" * 32)
    stranger = Client(manager.channel(ca.issue("b7", "DNS:node-7.cluster-b.test")))
    foreign = v2.EncryptResponse(ciphertext=b"none", key_id="none")
    assert refusal(stranger.decrypt, foreign).code in ("NOT_FOUND", "INVALID_ARGUMENT")
    manager.kmsd.v2("Encrypt", SEED)

    def methods(name: str) -> set[str]:
        found = json.loads(kmsctl(manager.kmsd, "requests", "--tenant", name, "-o", "json"))["requests"]
        assert {each["tenant"] for each in found} == {name}
        return {each["method"] for each in found}

    assert methods("cluster-a") == {"Encrypt"}
    assert methods("cluster-b") == {"Decrypt"}
    lines = json.loads(kmsctl(manager.kmsd, "audit", "tail", "-n", "50", "--tenant", "cluster-b", "-o", "json"))
    assert {each["tenant"] for each in lines["records"]} == {"cluster-b"}
    assert "v2 Decrypt" in {each["action"] for each in lines["records"]}
    assert "write key" in {each["action"] for each in lines["records"]}
    assert kmsctl(manager.kmsd, "audit", "verify")
    counted = json.loads(kmsctl(manager.kmsd, "stats", "--tenant", "cluster-b", "-o", "json"))
    assert {each["method"] for each in counted["calls"]} == {"Decrypt"}
    argv = [KMSCTL, "stats", "--tenant", "cluster-c", f"--target={manager.kmsd.admin_socket}"]
    unknown = forkserver.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert unknown.returncode == 2
    assert "the tenants of this kmsd are: cluster-a, cluster-b" in unknown.stderr


def test_health_is_a_tenants_own(manager: Manager, ca: Authority) -> None:
    """A tenant whose key is not there hears so, and its neighbour does not."""
    text = TENANTS.replace('"kek-b"', '"no-such-key"')
    a, b = (
        manager.channel(ca.issue(f"{each}7", f"DNS:node-7.cluster-{each}.test")).unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        for each in "ab"
    )
    ask = health_pb2.HealthCheckRequest(service="v2.KeyManagementService")
    assert a(ask, timeout=5).status == b(ask, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    manager.kmsd.stop()
    manager.config.write_text(text)
    manager.kmsd.flags = [each for each in manager.kmsd.flags if each != "--auto-create"]
    manager.kmsd.start()
    wait_for(lambda: tenant(manager, "cluster-a").healthz == "ok")
    assert a(ask, timeout=5, wait_for_ready=True).status == health_pb2.HealthCheckResponse.SERVING
    assert b(ask, timeout=5, wait_for_ready=True).status == health_pb2.HealthCheckResponse.NOT_SERVING
    down = tenant(manager, "cluster-b")
    assert down.state == pb.SERVING_STATE_DOWN
    assert [each.fatal for each in down.problems][:1] == [True]
    assert not tenant(manager, "cluster-a").problems


def test_a_proxys_own_checks_and_kmsctl_are_nobodys_following(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    manager.kmsd.admin("RotateKey", pb.RotateKeyRequest(label="kek-a"))
    new = tenant(manager, "cluster-a").write_key.key_id
    wait_for(lambda: proxy.status().write_key.key_id == new)
    with kms_connect(str(proxy.socket)) as kms:  # as kmsctl does
        assert kms.status().key_id == new
        assert kms.decrypt(kms.encrypt(b"a seed").ciphertext, key_id=new) == b"a seed"
    for each in (tenant(manager, "cluster-a").following, proxy.status().following):
        assert not each.first_status_unix_ms
        assert not each.first_encrypt_unix_ms
    assert proxy.v2("Status").key_id == new
    proxy.v2("Encrypt", SEED)
    for each in (tenant(manager, "cluster-a").following, proxy.status().following):
        assert each.first_status_unix_ms > 0
        assert each.first_encrypt_unix_ms > 0


def test_a_tenants_rotation_is_followed_reverted_and_told_as_its_own(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    before = {each.name: each.write_key.key_id for each in manager.kmsd.status().tenants}
    sealed = proxy.v2("Encrypt", SEED)
    over = threading.Event()

    def kube_apiserver() -> None:
        while not over.wait(0.3):
            proxy.v2("Status")
            proxy.v2("Encrypt", SEED)

    asking = threading.Thread(target=kube_apiserver)
    asking.start()
    try:
        told = kmsctl(manager.kmsd, "rotate", "kek-a", "--watch", "--yes", "--timeout", "30s")
    finally:
        over.set()
        asking.join()
    assert "done    kube-apiservers follow" in told
    first = tenant(manager, "cluster-a").write_key.key_id
    assert first != before["cluster-a"]
    kmsctl(manager.kmsd, "keys", "revert", "kek-a", "--yes")
    second = tenant(manager, "cluster-a").write_key.key_id
    assert second not in (first, before["cluster-a"])
    assert tenant(manager, "cluster-b").write_key.key_id == before["cluster-b"]
    wait_for(lambda: proxy.v2("Status").key_id == second)
    assert decrypt(proxy, sealed) == SEED.plaintext
    records = json.loads(kmsctl(manager.kmsd, "audit", "tail", "-n", "50", "--tenant", "cluster-a", "-o", "json"))
    assert {"RotateKey", "RevertKey"} <= {each["action"] for each in records["records"]}


@pytest.mark.parametrize("name", ["RetireKey", "DestroyKey"])
def test_no_scan_of_another_cluster_lets_a_tenants_key_go(manager: Manager, name: str) -> None:
    """Both clusters' keys are on one token, so a scan of one's etcd names keys that there are."""
    kmsd = manager.kmsd
    old = tenant(manager, "cluster-a").write_key.key_id
    kmsd.admin("RotateKey", pb.RotateKeyRequest(label="kek-a"))
    a, b = tenant(manager, "cluster-a").write_key, tenant(manager, "cluster-b").write_key
    own = kmsd.status().write_key
    request = getattr(pb, f"{name}Request")

    def refused(key: str, scan: pb.ScanReport) -> str:
        return refusal(kmsd.admin, name, request(key=key, scan=scan)).details

    assert "which no key is called, and may need any key" in refused(old, scanned(b.key_id))
    assert "which no key is called, and may need any key" in refused(old, scanned(own.key_id))
    assert "which no key is called, and may need any key" in refused(old, scanned(a.key_id, b.key_id))
    assert "is the write key" in refused(a.key_id, scanned(b.key_id))
    assert "is the write key" in refused(a.key_id, scanned(a.key_id))
    # Of the right etcd, but within the minutes in which a kube-apiserver may still write with it.
    assert "may have gone on writing with it" in refused(old, scanned(a.key_id))
    kmsd.admin("GenerateKey", pb.GenerateKeyRequest(label="kek-of-another-manager"))
    spare = kmsd.admin("GetKey", pb.GetKeyRequest(key="kek-of-another-manager")).key
    assert "nothing shows" in refusal(kmsd.admin, name, request(key=spare.key_id)).details
    assert "another cluster than the one that was scanned may need it" in refused(spare.key_id, scanned(own.key_id))
    assert {each.label for each in kmsd.admin("ListKeys").keys} > {"kek-a", "kek-b", "kek-of-another-manager"}


def test_a_key_does_not_move_between_tenants_by_the_way(manager: Manager) -> None:
    def relabelled(key: str, label: str) -> str:
        return refusal(manager.kmsd.admin, "RelabelKey", pb.RelabelKeyRequest(key=key, label=label)).details

    old = tenant(manager, "cluster-a").write_key.key_id
    assert "is the write key" in relabelled(old, "mine")
    manager.kmsd.admin("RotateKey", pb.RotateKeyRequest(label="kek-a"))
    assert "could not be read for that tenant any more" in relabelled(old, "mine")
    manager.kmsd.admin("GenerateKey", pb.GenerateKeyRequest(label="spare"))
    keys = {each.label: each for each in manager.kmsd.admin("ListKeys").keys}
    assert keys["kek-a"].tenant == "cluster-a"
    assert keys["spare"].tenant == ""
    assert [each.tenant for label, each in keys.items() if label.startswith("kek-a@")] == ["cluster-a"]


def test_a_certificate_that_ends_soon_is_told_where_it_matters(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    ending = ca.issue("a1", "DNS:node-1.cluster-a.test", begins=timedelta(days=-60), ends=timedelta(days=3))
    young = ca.issue("b1", "DNS:node-1.cluster-b.test", ends=timedelta(days=3))
    Client(manager.channel(young)).status()
    proxy = well(make_proxy(ending, ca, manager))
    told = "certificate of DNS:node-1.cluster-a.test"
    assert any(told in each.message for each in tenant(manager, "cluster-a").problems)
    assert tenant(manager, "cluster-a").state == pb.SERVING_STATE_DEGRADED
    assert any(each.message.startswith(f"tenant cluster-a: the {told}") for each in manager.kmsd.status().problems)
    assert not tenant(manager, "cluster-b").problems, "it is a short-lived one, and far from its end"
    assert any("the certificate of this proxy" in each.message for each in proxy.status().problems)
    assert 0 < proxy.status().certificate.not_after_unix_ms - time.time() * 1000 < 4 * DAY_MS
    assert "ends in" in kmsctl(proxy, "status")


def test_doctor_on_a_proxy_tells_who_it_is_and_whether_clocks_agree(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    answer = proxy.admin("Diagnose", pb.DiagnoseRequest(), timeout=30)
    checks = {each.name: each for each in answer.checks}
    assert "tenant cluster-a, says kmsd" in checks["tenant"].seen
    assert "TLSv1.3" in checks["tenant"].seen
    assert checks["clock"].outcome == "ok"


def test_a_clock_that_is_wrong_is_told_and_keeps_nobody_from_being_served(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority, tmp_path: Path
) -> None:
    ahead = clock(tmp_path / "clock", 90)
    proxy = make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager, environment=ahead)
    assert decrypt(well(proxy), proxy.v2("Encrypt", SEED)) == SEED.plaintext
    checks = {each.name: each for each in proxy.admin("Diagnose", pb.DiagnoseRequest(), timeout=30).checks}
    assert checks["clock"].outcome == "warning"
    assert checks["clock"].seen.startswith("its clock is -90.")
    assert "NTP" in checks["clock"].fix
