"""Tenants of a key manager: each writes and reads with its own keys, and nobody gets in without a certificate."""

from __future__ import annotations

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import Client, Manager
from tests.rpc.refusals import refusal


def test_each_tenant_writes_with_its_key_and_reads_what_it_wrote(manager: Manager, ca: Authority) -> None:
    a = Client(manager.channel(ca.issue("a1", "DNS:node-1.cluster-a.test")))
    b = Client(manager.channel(ca.issue("b1", "DNS:node-1.cluster-b.test")))
    assert a.status().healthz == b.status().healthz == "ok"
    for_a, for_b = a.encrypt(b"a" * 32), b.encrypt(b"b" * 32)
    assert for_a.key_id != for_b.key_id
    assert (a.decrypt(for_a), b.decrypt(for_b)) == (b"a" * 32, b"b" * 32)
    wait_for(lambda: len(manager.kmsd.hosts()) == 1)  # another may be ending, after keys were made
    hosts = manager.kmsd.hosts()
    stolen = refusal(b.decrypt, for_a)
    assert stolen.code == "NOT_FOUND"
    invented = refusal(b.decrypt, v2.EncryptResponse(ciphertext=for_a.ciphertext, key_id="nobody-s"))
    assert invented.code in ("NOT_FOUND", "INVALID_ARGUMENT")
    # A key that was made just now is asked for in another process on SoftHSM; one that is known is not missed.
    assert manager.kmsd.hosts() == hosts
    for_a.key_id = "nobody-s-key"
    assert refusal(b.decrypt, for_a).code in ("NOT_FOUND", "INVALID_ARGUMENT")
    local = manager.kmsd.status()
    assert {(each.name, each.write_label, each.healthz) for each in local.tenants} == {
        ("cluster-a", "kek-a", "ok"),
        ("cluster-b", "kek-b", "ok"),
    }
