"""kmsd on a token without keys: up, honest, and well the moment there is one."""

from __future__ import annotations

from collections.abc import Callable

from grpc_health.v1 import health_pb2

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rpc.known import WRITE
from tests.rpc.refusals import refusal
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")


def _serving(kmsd: Kmsd) -> bool:
    request = health_pb2.HealthCheckRequest(service="v2.KeyManagementService")
    answer = kmsd.raw("/grpc.health.v1.Health/Check", request.SerializeToString())
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def _round_trip(kmsd: Kmsd) -> str:
    written = kmsd.v2("Encrypt", SEED)
    read = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id))
    assert read.plaintext == SEED.plaintext
    key_id: str = written.key_id
    return key_id


def test_without_a_key_it_says_so_and_a_generated_key_serves_at_once(
    start_kmsd: Callable[..., Kmsd],
) -> None:
    kmsd = start_kmsd()
    wait_for(lambda: "labelled 'k8s-kek'" in kmsd.v2("Status").healthz)
    status = kmsd.v2("Status")
    assert status.key_id == ""
    assert status.healthz.startswith("there is no key labelled 'k8s-kek' on token 'kmsd-test'")
    assert "kmsctl keygen k8s-kek" in status.healthz
    refused = refusal(kmsd.v2, "Encrypt", SEED)
    assert refused.code == "FAILED_PRECONDITION"
    assert "kmsctl keygen k8s-kek" in refused.details
    seen = kmsd.status()
    assert seen.state == admin.SERVING_STATE_DOWN
    assert seen.token.up
    assert seen.healthz == "there is no key labelled 'k8s-kek' on token 'kmsd-test'"
    assert seen.hint == "make one: kmsctl keygen k8s-kek"
    assert [problem.fatal for problem in seen.problems] == [True]
    assert not _serving(kmsd)

    key = kmsd.keygen()
    # No waiting: the answer of GenerateKey is the moment.
    status = kmsd.v2("Status")
    assert (status.healthz, status.key_id) == ("ok", key.key_id)
    assert _round_trip(kmsd) == key.key_id
    assert kmsd.status().state == admin.SERVING_STATE_SERVING
    wait_for(lambda: _serving(kmsd))


def test_a_key_made_by_another_program_serves_within_the_refresh(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    kmsd = start_kmsd(environment={"KMSD_KEYS__REFRESH": "0.3"})
    wait_for(lambda: "labelled 'k8s-kek'" in kmsd.v2("Status").healthz)
    token.objects(WRITE.step)
    kmsd.wait_ok(timeout=5)
    assert kmsd.v2("Status").key_id == WRITE.key_id
    assert _round_trip(kmsd) == WRITE.key_id


def test_another_label_than_the_write_label_does_not_make_it_well(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--p11-key-label=mine")
    wait_for(lambda: "labelled 'mine'" in kmsd.v2("Status").healthz)
    kmsd.keygen("k8s-kek")
    assert "labelled 'mine'" in kmsd.v2("Status").healthz
    key = kmsd.keygen("mine")
    assert kmsd.v2("Status").key_id == key.key_id


def test_auto_create_makes_the_pair_once(start_kmsd: Callable[..., Kmsd]) -> None:
    flags = ("--auto-create", "--algorithm=aes-cbc", "--p11-key-label=kek", "--p11-hmac-label=mac")
    kmsd = start_kmsd(*flags, name="a").wait_ok()
    wait_for(lambda: kmsd.status().keys == 2)
    keys = {key.label: key for key in kmsd.admin("ListKeys").keys}
    assert keys["kek"].type == admin.KEY_TYPE_AES
    assert keys["kek"].state == admin.KEY_STATE_WRITE
    assert (keys["kek"].bits, keys["kek"].can_encrypt, keys["kek"].can_decrypt) == (256, True, True)
    assert not keys["kek"].can_sign
    assert keys["mac"].type == admin.KEY_TYPE_HMAC
    assert keys["mac"].state == admin.KEY_STATE_COMPANION
    assert (keys["mac"].can_sign, keys["mac"].can_verify, keys["mac"].can_encrypt) == (True, True, False)
    for key in keys.values():
        assert key.sensitive
        assert key.private
        assert not key.extractable
        assert key.created_unix_ms > 0
    made = _round_trip(kmsd)
    assert made == keys["kek"].key_id
    kmsd.stop()

    again = start_kmsd(*flags, name="b").wait_ok()
    assert _round_trip(again) == made
    assert again.status().keys == 2


def test_auto_create_makes_no_hmac_key_where_aes_gcm_needs_none(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create", "--p11-hmac-label=mac", environment={"KMSD_KEYS__REFRESH": "0.1"}).wait_ok()
    kmsd.admin("RotateKey")
    assert {key.type for key in kmsd.admin("ListKeys").keys} == {admin.KEY_TYPE_AES}


def test_without_auto_create_nothing_is_ever_made(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--p11-hmac-label=mac", environment={"KMSD_KEYS__REFRESH": "0.1"})
    wait_for(lambda: "labelled 'k8s-kek'" in kmsd.v2("Status").healthz)
    assert len(kmsd.admin("ListKeys").keys) == 0
