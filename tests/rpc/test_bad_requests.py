"""Requests that can never succeed: one status each, with a sentence that says what to do, and no harm done."""

from __future__ import annotations

import socket

import grpc
import pytest

from tests.daemons import Kmsd
from tests.raw import unary
from tests.rpc.forged import SECRET, V1, v1_decrypt, v2_decrypt
from tests.rpc.known import WRITE
from tests.rpc.refusals import (
    DECRYPT_V1,
    DECRYPT_V2,
    ENCRYPT_V1,
    ENCRYPT_V2,
    STATUS_V2,
    VERSION_V1,
    assert_silent,
    refusal,
)
from tests.rpc.wire import field

pytestmark = pytest.mark.usefixtures("unharmed")


SIZES = {
    "v2-encrypt-nothing": (ENCRYPT_V2, b"", "the plaintext has 0 bytes; KMS v2 takes 1 to 1023"),
    "v2-encrypt-too-much": (ENCRYPT_V2, field(1, bytes(1024)), "the plaintext has 1024 bytes"),
    "v2-encrypt-grows-too-large": (ENCRYPT_V2, field(1, bytes(800)), "the ciphertext of 800 bytes would have"),
    "v2-encrypt-64-KiB": (ENCRYPT_V2, field(1, bytes(1 << 16)), "the plaintext has 65536 bytes"),
    "v2-decrypt-nothing": (DECRYPT_V2, field(3, WRITE.key_id), "the ciphertext has 0 bytes"),
    "v2-decrypt-too-much": (DECRYPT_V2, v2_decrypt(b"e" * 1024), "the ciphertext has 1024 bytes"),
    "v2-decrypt-no-key-id": (DECRYPT_V2, field(1, b"e.."), "no key_id; send the key_id that Encrypt answered"),
    "v1-encrypt-nothing": (ENCRYPT_V1, V1, "the plaintext has 0 bytes; this kmsd takes 1 to 65536"),
    "v1-encrypt-too-much": (ENCRYPT_V1, V1 + field(2, bytes(65537)), "the plaintext has 65537 bytes"),
    "v1-decrypt-nothing": (DECRYPT_V1, V1, "the ciphertext has 0 bytes"),
    "v1-decrypt-too-much": (DECRYPT_V1, v1_decrypt(b"e" * 100_000), "this kmsd takes 1 to 92381 (kms.max_plaintext)"),
    "v1-version-empty": (VERSION_V1, b"", "version must be 'v1beta1', got ''; the caller speaks another API"),
    "v1-version-other": (VERSION_V1, field(1, "v1"), "version must be 'v1beta1', got 'v1'"),
    "v1-version-space": (VERSION_V1, field(1, "v1beta1 "), "version must be 'v1beta1', got 'v1beta1 '"),
    "v1-version-64-KiB": (VERSION_V1, field(1, "v" * 65000), "got 'vvvvvvvvvvvvvvvvv...'"),
    "v1-encrypt-version": (ENCRYPT_V1, field(1, "v2") + field(2, SECRET), "version must be 'v1beta1', got 'v2'"),
    "v1-decrypt-version": (DECRYPT_V1, field(2, b"e.."), "version must be 'v1beta1', got ''"),
    "v2-uid-no-utf-8": (ENCRYPT_V2, field(1, SECRET) + field(2, b"\xff\xfe"), "is no v2.EncryptRequest message"),
    "v2-key-id-no-utf-8": (DECRYPT_V2, field(1, b"e..") + field(3, b"\xc3("), "is no v2.DecryptRequest message"),
    "v1-version-no-utf-8": (VERSION_V1, field(1, b"\x80"), "is no v1beta1.VersionRequest message"),
    "v2-no-protobuf": (ENCRYPT_V2, b"\xff" * 100, "is no v2.EncryptRequest message"),
    "v2-cut-short": (ENCRYPT_V2, field(1, SECRET)[:-1], "is no v2.EncryptRequest message"),
    "v2-status-no-protobuf": (STATUS_V2, b"\x00\x01\x02", "is no v2.StatusRequest message"),
    "v1-no-protobuf": (DECRYPT_V1, SECRET, "is no v1beta1.DecryptRequest message"),
}


@pytest.mark.parametrize(("path", "body", "says"), SIZES.values(), ids=SIZES.keys())
def test_a_request_that_breaks_the_api_is_told_how(served: Kmsd, path: str, body: bytes, says: str) -> None:
    refused = refusal(served.raw, path, body)
    assert refused.code == "INVALID_ARGUMENT"
    assert says in refused.details
    assert not refused.retryable
    assert refused.details.endswith(refused.hint)
    assert_silent(refused.details, SECRET)


LARGE = {
    "v2-encrypt": (ENCRYPT_V2, field(1, bytes(1 << 20)), "the message has 1048580 bytes; v2 Encrypt takes at most"),
    "v2-decrypt": (DECRYPT_V2, v2_decrypt(b"e" * (1 << 20)), "v2 Decrypt takes at most 102400 in one message"),
    "v1-encrypt": (ENCRYPT_V1, V1 + field(2, bytes(1 << 20)), "v1beta1 Encrypt takes at most 131072 in one message"),
    "v1-decrypt": (DECRYPT_V1, v1_decrypt(b"e" * (1 << 20)), "v1beta1 Decrypt takes at most 157917 in one message"),
    "v1-version": (VERSION_V1, field(1, "v" * (1 << 20)), "v1beta1 Version takes at most 65536 in one message"),
}


@pytest.mark.parametrize(("path", "body", "says"), LARGE.values(), ids=LARGE.keys())
def test_a_message_far_over_what_its_method_takes_is_not_looked_at(
    served: Kmsd, path: str, body: bytes, says: str
) -> None:
    refused = refusal(served.raw, path, body)
    assert refused.code == "RESOURCE_EXHAUSTED"
    assert says in refused.details
    assert not refused.retryable


def test_a_message_over_the_bound_of_the_socket_is_refused(served: Kmsd) -> None:
    for path in (ENCRYPT_V2, ENCRYPT_V1, STATUS_V2):
        with pytest.raises(grpc.RpcError) as caught:
            served.raw(path, field(1, bytes(3 << 20)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_method_that_is_not_there_is_unimplemented(served: Kmsd) -> None:
    for path in (
        "/v2.KeyManagementService/Rotate",
        "/v1.KeyManagementService/Encrypt",
        "/",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ):
        with pytest.raises(grpc.RpcError) as caught:
            served.raw(path, field(1, SECRET))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_http_2_end_only_their_own_connection(served: Kmsd) -> None:
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 40,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(10)
            peer.connect(str(served.socket))
            peer.sendall(garbage)
            peer.shutdown(socket.SHUT_WR)
            try:
                while peer.recv(4096):
                    pass
            except ConnectionResetError:
                pass


def test_clients_that_give_up_leave_the_server_well(served: Kmsd) -> None:
    channel = served.channel()
    call = unary(channel, ENCRYPT_V2)
    for _ in range(5):
        begun = [call.future(field(1, SECRET), timeout=5) for _ in range(40)]
        for future in begun:
            future.cancel()
    channel.close()
