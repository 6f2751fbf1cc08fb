"""A proxy serves the sockets of a kmsd from key managers on other machines, and never with another's key."""

from __future__ import annotations

import json
from collections.abc import Callable

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, Manager, decrypt, well
from tests.rpc.refusals import refusal


def kmsctl(proxy: Kmsd, *words: str) -> str:
    """What kmsctl prints of this proxy."""
    argv = [KMSCTL, *words, f"--target={proxy.admin_socket}"]
    done: str = forkserver.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    return done


def test_both_apis_are_answered_through_a_proxy(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    sealed = proxy.v2("Encrypt", SEED)
    assert sealed.key_id == proxy.v2("Status").key_id
    assert decrypt(proxy, sealed) == SEED.plaintext
    for size in (32, 5000):
        old = proxy.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"p" * size))
        opened = proxy.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=old.cipher))
        assert opened.plain == b"p" * size
    status = proxy.status()
    (upstream,) = status.upstreams
    assert (upstream.up, upstream.healthz, upstream.key_id) == (True, "ok", sealed.key_id)
    assert status.write_key.key_id == sealed.key_id
    assert list(status.certificate.names) == ["DNS:node-1.cluster-a.test"]
    assert status.certificate.not_after_unix_ms > status.now_unix_ms
    counted = kmsctl(proxy, "stats", "-o", "json")
    assert json.loads(counted)["sessions"]["open"] == 0
    shown = kmsctl(proxy, "status")
    assert f"127.0.0.1:{manager.port}: up" in shown
    assert "days left" in shown
    assert "round trip" in kmsctl(proxy, "doctor")
    refused = refusal(proxy.admin, "ListKeys")
    assert "this kmsd is a proxy without tokens" in refused.details


def test_kmsctl_rotates_the_key_of_a_tenant_and_no_other(manager: Manager) -> None:
    def keys() -> dict[str, str]:
        status = manager.kmsd.status()
        return {"own": status.write_key.key_id, **{each.name: each.write_key.key_id for each in status.tenants}}

    before = keys()
    kmsctl(manager.kmsd, "rotate", "kek-a", "--yes")
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {"cluster-a"}
    assert "new   kek-b" not in kmsctl(manager.kmsd, "rotate", "kek-b", "--dry-run")
    assert keys() == after


def test_it_heals_by_itself_when_its_key_manager_comes_back(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    sealed = proxy.v2("Encrypt", SEED)
    manager.kmsd.stop()
    gone = wait_for(lambda: (answer := proxy.v2("Status")).healthz != "ok" and answer)
    assert gone.key_id == sealed.key_id
    assert "cannot be reached" in gone.healthz
    assert refusal(proxy.v2, "Encrypt", SEED).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert proxy.socket.exists()
    manager.kmsd.start()
    well(proxy)
    assert decrypt(proxy, sealed) == SEED.plaintext
