"""Both KMS APIs and health on one socket, as they are on the wire."""

from __future__ import annotations

import base64
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2

from kmsd import __version__
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd
from tests.raw import unary
from tests.rpc.known import AES128, WRITE
from tests.rpc.refusals import DECRYPT_V1, DECRYPT_V2, ENCRYPT_V1, ENCRYPT_V2, STATUS_V2, VERSION_V1
from tests.rpc.wire import field, fields

SEED = b"0123456789abcdef0123456789abcdef"


def test_a_round_trip_on_each_api_over_one_connection(served: Kmsd) -> None:
    new = served.v2("Encrypt", v2.EncryptRequest(plaintext=SEED, uid="one"))
    old = served.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=SEED))
    read = served.v2("Decrypt", v2.DecryptRequest(ciphertext=new.ciphertext, key_id=new.key_id, uid="two"))
    assert read.plaintext == SEED
    read = served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=old.cipher))
    assert read.plain == SEED


def test_what_one_api_wrote_the_other_reads(served: Kmsd) -> None:
    """An EncryptionConfiguration moves from v1 to v2 with the data that is there."""
    new = served.v2("Encrypt", v2.EncryptRequest(plaintext=SEED))
    old = served.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=SEED))
    read = served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=new.ciphertext))
    assert read.plain == SEED
    read = served.v2("Decrypt", v2.DecryptRequest(ciphertext=old.cipher, key_id=WRITE.key_id))
    assert read.plaintext == SEED


def test_v2_on_the_wire_is_the_field_table_of_kubernetes(served: Kmsd) -> None:
    status = fields(served.raw(STATUS_V2, b""))
    assert status == {1: b"v2", 2: b"ok", 3: WRITE.key_id.encode()}
    written = fields(served.raw(ENCRYPT_V2, field(1, SEED) + field(2, "a-uid")))
    assert set(written) == {1, 2}
    assert written[2] == WRITE.key_id.encode()
    assert len(written[1]) < 1024
    annotation = field(4, field(1, "kmsd.example") + field(2, b"\x00\xff"))
    request = field(1, written[1]) + field(2, "a-uid") + field(3, written[2])
    assert fields(served.raw(DECRYPT_V2, request)) == {1: SEED}
    assert fields(served.raw(DECRYPT_V2, request + annotation)) == {1: SEED}


def test_v1beta1_on_the_wire_is_the_field_table_of_kubernetes(served: Kmsd) -> None:
    version = fields(served.raw(VERSION_V1, field(1, "v1beta1")))
    assert version == {1: b"v1beta1", 2: b"kmsd", 3: __version__.encode()}
    written = fields(served.raw(ENCRYPT_V1, field(1, "v1beta1") + field(2, b"ping")))
    assert set(written) == {1}
    assert fields(served.raw(DECRYPT_V1, field(1, "v1beta1") + field(2, written[1]))) == {1: b"ping"}


def test_fields_of_a_later_kubernetes_are_ignored(served: Kmsd) -> None:
    later = field(1500, b"something new")
    assert fields(served.raw(STATUS_V2, later))[2] == b"ok"
    written = fields(served.raw(ENCRYPT_V2, later + field(1, SEED)))
    read = served.raw(DECRYPT_V2, field(1, written[1]) + field(3, written[2]) + later)
    assert fields(read) == {1: SEED}


@pytest.mark.parametrize("size", [1, 4, 15, 16, 17, 32, 300, 600])
def test_v2_carries_seeds_of_any_size_that_fits_kube_apiserver(served: Kmsd, size: int) -> None:
    plaintext = bytes(i % 251 for i in range(size))
    written = served.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext))
    assert 0 < len(written.ciphertext) < 1024
    read = served.v2("Decrypt", v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id))
    assert read.plaintext == plaintext


@pytest.mark.parametrize("size", [1, 4, 32, 4096, 65536])
def test_v1beta1_carries_whole_secrets(served: Kmsd, size: int) -> None:
    plaintext = bytes(i % 251 for i in range(size))
    written = served.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=plaintext))
    read = served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=written.cipher))
    assert read.plain == plaintext


def test_the_same_plaintext_is_never_written_alike_twice(served: Kmsd) -> None:
    request = v2.EncryptRequest(plaintext=SEED)
    written = [served.v2("Encrypt", request).ciphertext for _ in range(300)]
    ivs = {bytes(each).split(b".")[2] for each in written}
    assert len(ivs) == len(written)


@pytest.mark.parametrize("authority", ["localhost", "the socket's path", "%2Frun%2Fkmsd%2Fkms.sock"])
def test_any_authority_that_kube_apiserver_sends_is_served(served: Kmsd, authority: str) -> None:
    if authority == "the socket's path":
        authority = str(served.socket)
    channel = served.channel(None, ("grpc.default_authority", authority))
    try:
        for path, request in (
            (STATUS_V2, b""),
            (ENCRYPT_V2, field(1, SEED)),
            (ENCRYPT_V1, field(1, "v1beta1") + field(2, b"ping")),
        ):
            assert unary(channel, path)(request, timeout=5)
    finally:
        channel.close()


def _health(kmsd: Kmsd, service: str, *, admin: bool = False) -> str:
    channel = kmsd.channel(kmsd.admin_socket if admin else kmsd.socket)
    try:
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(
            unary(channel, "/grpc.health.v1.Health/Check")(request, timeout=5)
        )
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    finally:
        channel.close()


@pytest.mark.parametrize("service", ["", "v2.KeyManagementService", "v1beta1.KeyManagementService"])
def test_grpc_health_on_the_kms_socket(served: Kmsd, service: str) -> None:
    assert _health(served, service) == "SERVING"


@pytest.mark.parametrize("service", ["", "kmsd.admin.v1.Admin"])
def test_grpc_health_on_the_admin_socket(served: Kmsd, service: str) -> None:
    assert _health(served, service, admin=True) == "SERVING"


def test_grpc_health_of_a_service_that_is_not_there(served: Kmsd) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _health(served, "kmsd.admin.v1.Admin")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_each_socket_has_its_own_apis_only(served: Kmsd) -> None:
    for path, method in (
        (served.socket, "/kmsd.admin.v1.Admin/GetStatus"),
        (served.admin_socket, STATUS_V2),
        (served.admin_socket, DECRYPT_V1),
    ):
        channel = served.channel(path)
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, method)(b"", timeout=5)
        channel.close()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_status_and_encrypt_agree_on_the_key(served: Kmsd) -> None:
    status = served.v2("Status")
    written = served.v2("Encrypt", v2.EncryptRequest(plaintext=SEED))
    assert (status.version, status.healthz) == ("v2", "ok")
    assert status.key_id == written.key_id == WRITE.key_id
    assert not written.annotations


def test_every_call_is_logged_at_debug_with_its_uid_and_its_key(served: Kmsd) -> None:
    written = served.v2("Encrypt", v2.EncryptRequest(plaintext=SEED, uid="uid-of-a-logged-call"))
    head = json.loads(base64.urlsafe_b64decode(written.ciphertext.split(b".")[0] + b"=="))
    assert head["kid"] == WRITE.key_id
    lines = [line for line in served.log_lines() if line.get("uid") == "uid-of-a-logged-call"]
    assert [(line["level"], line["api"], line["method"], line["code"]) for line in lines] == [
        ("debug", "v2", "Encrypt", "OK")
    ]
    keys = {key.key_id: key.key_id_sha256 for key in served.admin("ListKeys").keys}
    assert lines[0]["key_id_sha256"] == keys[WRITE.key_id]
    assert keys[AES128.key_id] != keys[WRITE.key_id]
