"""A key manager tells of each tenant, a proxy of each key manager, and both are ready when they serve."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.observe.scraping import Answer, told
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import Manager, free_port, well


def test_tenants_upstreams_and_certificates_have_metrics(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    port, gate = free_port(), free_port()
    manager = make_manager(environment={"KMSD_OBSERVE__LISTEN": f"127.0.0.1:{port}", "KMSD_HEALTH__INTERVAL": "0.5"})
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    caller = ca.issue("p", "DNS:p.cluster-a.test")
    nowhere = f"127.0.0.1:{free_port()}"
    proxy = well(
        make_proxy(caller, ca, manager, nowhere, environment={"KMSD_OBSERVE__LISTEN": f"127.0.0.1:{gate}"})
    )  # fmt: skip
    proxy.v2("Encrypt", v2.EncryptRequest(plaintext=b"p" * 32, uid="u"))
    hashes = {each.name: f"sha256:{each.write_key.key_id_sha256}" for each in manager.kmsd.status().tenants}

    its = told(port)
    assert its["kmsd_write_key_info", (hashes["cluster-a"], "cluster-a")] == 1
    assert its["kmsd_write_key_followed", ("cluster-a",)] == 1
    assert ("kmsd_write_key_followed", ("cluster-b",)) not in its
    assert its["kmsd_health_ok", ("cluster-b",)] == 1
    assert its["kmsd_tenant_rpc_duration_seconds_count", ("cluster-a",)] >= 2
    assert its["kmsd_tenant_rpc_duration_seconds_sum", ("cluster-a",)] > 0
    assert its["kmsd_tenant_rpc_errors_total", ("cluster-b",)] == 0
    assert its["kmsd_tenant_peers", ("cluster-a",)] == 1
    assert its["kmsd_key_operations_total", (hashes["cluster-a"], "encrypt")] == 2, (
        "one of them the canary of the proxy"
    )
    assert its["kmsd_listener_up", (f"127.0.0.1:{manager.port}",)] == 1
    server = manager.kmsd.status().certificate.not_after_unix_ms / 1000
    assert its["kmsd_certificate_expiry_seconds", ("", "server")] == server
    assert its["kmsd_certificate_expiry_seconds", ("cluster-a", "tenant")] > time.time()
    assert "[+]tcp ok" in Answer(port, "/readyz?verbose").text

    where = f"127.0.0.1:{manager.port}"
    ours = told(gate)
    assert ours["kmsd_upstream_up", (where,)] == ours["kmsd_upstream_usable", (where,)] == 1
    assert ours["kmsd_upstream_up", (nowhere,)] == 0
    assert ours["kmsd_upstream_failures_total", (nowhere,)] >= 1
    assert ours["kmsd_upstream_requests_total", (where,)] >= 2
    assert ours["kmsd_upstream_key_info", (hashes["cluster-a"], where)] == 1
    assert ours["kmsd_write_key_info", (hashes["cluster-a"], "")] == 1
    assert ours["kmsd_certificate_expiry_seconds", ("", "proxy")] > time.time()
    assert Answer(gate, "/readyz").text == "ok\n"

    assert b"kmsd_tenant_peers" in _metrics(manager, ca.issue("w", "DNS:watcher.test"))
    with pytest.raises(grpc.RpcError) as refused:
        _metrics(manager, caller)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED

    manager.kmsd.stop()
    lost = wait_for(lambda: (answer := Answer(gate, "/readyz")).status == 503 and answer)
    assert "[-]key-managers failed: " in lost.text
    assert Answer(gate, "/livez").status == 200


def _metrics(manager: Manager, caller: Issued) -> bytes:
    """What the admin API tells this caller from another machine."""
    method: grpc.UnaryStreamMultiCallable[admin.GetMetricsRequest, admin.GetMetricsResponse] = manager.channel(
        caller
    ).unary_stream(
        "/kmsd.admin.v1.Admin/GetMetrics",
        request_serializer=admin.GetMetricsRequest.SerializeToString,
        response_deserializer=admin.GetMetricsResponse.FromString,
    )
    return b"".join(each.text for each in method(admin.GetMetricsRequest(), timeout=10))


def test_the_last_scan_of_etcd_is_told_by_key(start_kmsd: Callable[..., Kmsd]) -> None:
    port = free_port()
    kmsd = start_kmsd("--auto-create", environment={"KMSD_OBSERVE__LISTEN": f"127.0.0.1:{port}"}).wait_ok()
    spare = kmsd.keygen("spare")
    now = int(time.time() * 1000)
    use = admin.ScanReport.Use(key_id=spare.key_id, objects=3)
    other = admin.ScanReport.Use(key_id="elsewhere", by_label=True, objects=4)
    scan = admin.ScanReport(
        started_unix_ms=now - 1000, finished_unix_ms=now, prefix="/registry/", objects=9, unknown=2, uses=[use, other]
    )
    assert not any(name == "kmsd_etcd_scan_objects" for name, _ in told(port))
    kmsd.admin(
        "RetireKey", admin.RetireKeyRequest(key="spare", scan=scan, confirm_label="spare", dry_run=True)
    )  # fmt: skip
    its = told(port)
    assert its["kmsd_etcd_scan_objects", (f"sha256:{spare.key_id_sha256}",)] == 3
    assert its["kmsd_etcd_scan_objects", ("other",)] == 4
    assert its["kmsd_etcd_scan_objects", ("unknown",)] == 2
    assert its["kmsd_etcd_scan_timestamp_seconds", ()] == now / 1000
