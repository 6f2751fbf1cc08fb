"""The main job on every kind of token: both APIs, restart, rotation, refusal of what was altered."""

from __future__ import annotations

import base64
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, decrypt, encrypt, rotate
from tests.serving.conftest import Served


def header(ciphertext: bytes) -> dict[str, str]:
    head = ciphertext.split(b".")[0]
    members: dict[str, str] = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    return members


def test_both_apis_round_trip(kmsd: Kmsd, served: Served) -> None:
    for size in (1, 16, 32, 100):
        sealed = encrypt(kmsd, bytes(size))
        assert decrypt(kmsd, sealed) == bytes(size)
    members = header(sealed.ciphertext)
    assert members["enc"] in served.encs
    assert members["kid"] == sealed.key_id == kmsd.v2("Status").key_id
    ping = kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"ping")).cipher
    answer = kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=ping))
    assert answer.plain == b"ping"
    assert kmsd.status().write_key.enc == members["enc"]


@pytest.mark.parametrize("segment", [0, 2, 3, 4])
def test_what_was_altered_is_refused(kmsd: Kmsd, segment: int) -> None:
    sealed = encrypt(kmsd, b"secret")
    parts = sealed.ciphertext.split(b".")
    raw = bytearray(base64.urlsafe_b64decode(parts[segment] + b"=" * (-len(parts[segment]) % 4)))
    raw[-1 if segment else -3] ^= 1
    parts[segment] = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=")
    with pytest.raises(grpc.RpcError) as caught:
        kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b".".join(parts), key_id=sealed.key_id, uid="u"))
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert decrypt(kmsd, sealed) == b"secret", "and the next call works"


@pytest.mark.parametrize("size", [0, 8])
def test_a_tag_that_is_cut_is_refused(kmsd: Kmsd, size: int) -> None:
    sealed = encrypt(kmsd, b"secret")
    parts = sealed.ciphertext.split(b".")
    tag = base64.urlsafe_b64decode(parts[4] + b"=" * (-len(parts[4]) % 4))
    parts[4] = base64.urlsafe_b64encode(tag[:size]).rstrip(b"=")
    with pytest.raises(grpc.RpcError) as caught:
        kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b".".join(parts), key_id=sealed.key_id, uid="u"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_clients_at_once(kmsd: Kmsd, served: Served) -> None:
    count = 20 if served.slow else 200

    def work(number: int) -> bool:
        plaintext = f"{number}".encode() * 3
        return decrypt(kmsd, encrypt(kmsd, plaintext)) == plaintext

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(count)))
    assert not [line for line in kmsd.log_lines() if line["level"] == "error"]


def test_it_rotates_and_reads_what_it_wrote_before_and_after_a_restart(kmsd: Kmsd, served: Served) -> None:
    before = encrypt(kmsd, b"before")
    done = rotate(kmsd)
    assert done.rotated
    after = encrypt(kmsd, b"after")
    assert after.key_id == done.new_key.key_id != before.key_id
    assert header(after.ciphertext)["enc"] in served.encs
    assert (decrypt(kmsd, before), decrypt(kmsd, after)) == (b"before", b"after")
    assert_at_rest(kmsd)
    kmsd.stop()
    kmsd.start().wait_ok()
    assert (decrypt(kmsd, before), decrypt(kmsd, after)) == (b"before", b"after")
    assert kmsd.v2("Status").key_id == after.key_id


def test_it_comes_back_when_the_token_does(kmsd: Kmsd, served: Served) -> None:
    # openCryptoki goes on without the files of keys that nobody has relabelled since they were made.
    rotate(kmsd)
    kmsd.stop()
    kmsd.start().wait_ok()
    sealed = encrypt(kmsd, b"before")
    with served.token.away():
        if served.remembers:
            # Or it fails, where a session has not seen the key yet; but never with another plaintext.
            with contextlib.suppress(grpc.RpcError):
                assert decrypt(kmsd, sealed) == b"before"
        else:
            wait_for(lambda: kmsd.v2("Status").healthz != "ok", 30.0)
            with pytest.raises(grpc.RpcError):
                decrypt(kmsd, sealed)
    wait_for(lambda: kmsd.v2("Status").healthz == "ok", 40.0)
    assert decrypt(kmsd, sealed) == b"before"
