"""A proxy serves the sockets of a kmsd from key managers on other machines, and never with another's key."""

from __future__ import annotations

from collections.abc import Callable

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, Manager, decrypt, well
from tests.rpc.refusals import refusal


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
