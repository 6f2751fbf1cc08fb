"""Cases in which the obvious answer would lose data or tell an operator something false."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.keys.labels import new_key_id
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import refusal
from tests.rpc.vectors import GCM, K8S_KMS_PLUGIN_KEYS
from tests.tokens import SoftToken


def test_a_key_that_may_only_decrypt_hides_no_older_one(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    vector = next(each for each in GCM if each.key_label == "k8s-dek")
    key = next(each for each in K8S_KMS_PLUGIN_KEYS if each.label == "k8s-dek")
    token.import_aes("k8s-dek@20200101T0000Z", key.value, key.key_id.encode())
    token.objects(
        {
            "do": "import",
            "type": "aes",
            "encrypt": "no",
            "label": "k8s-dek@20260101T0000Z",
            "value": os.urandom(32).hex(),
            "id": new_key_id().encode().hex(),
        }
    )
    kmsd = start_kmsd()
    request = v1beta1.DecryptRequest(version="v1beta1", cipher=vector.ciphertext)
    assert kmsd.v1beta1("Decrypt", request).plain == vector.plaintext


def test_auto_create_does_not_replace_a_write_key_that_is_gone(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    lost = kmsd.v2("Status").key_id
    kmsd.stop()
    token.destroy("k8s-kek")
    kmsd = start_kmsd("--auto-create")
    said = wait_for(lambda: [p for p in kmsd.status().problems if "--auto-create makes no other" in p.message])
    assert lost in said[0].message
    assert "kmsctl keygen k8s-kek" in said[0].hint
    assert not kmsd.admin("ListKeys").keys
    # An operator may decide otherwise.
    made = kmsd.keygen()
    assert made.state == admin.KEY_STATE_WRITE
    assert kmsd.v2("Status").healthz == "ok"
    assert not kmsd.status().problems


def test_calls_that_fail_for_long_cost_no_memory(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.pin_file.write_text("not the PIN\n")
    kmsd = start_kmsd("--log-level=info", forked=False)
    wait_for(lambda: "refused the PIN" in kmsd.v2("Status").healthz)
    request = v2.EncryptRequest(plaintext=b"x" * 900)

    def fail(times: int) -> int:
        for _ in range(times):
            assert refusal(kmsd.v2, "Encrypt", request).code == "FAILED_PRECONDITION"
        assert kmsd.process is not None
        status = Path(f"/proc/{kmsd.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    before = fail(300)
    assert fail(2000) - before < 4096


def test_a_group_that_kmsd_may_not_give_is_named(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    kmsd = start_kmsd(environment={"KMSD_KMS__GROUP": "no-such-group"}, wait=False)
    assert kmsd.process is not None
    assert kmsd.process.wait(20) == 2
    assert "there is no group 'no-such-group'" in kmsd.log_text()
    with pytest.raises(grpc.RpcError):
        kmsd.v2("Status")
