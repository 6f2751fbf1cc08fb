"""legacy.allow_unauthenticated: it takes no protection from what kmsd itself writes, and is a poor oracle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rpc.forged import b64, unb64
from tests.rpc.refusals import Refusal, refusal, told
from tests.rpc.vectors import CBC, K8S_KMS_PLUGIN_KEYS
from tests.security.forging import compact
from tests.tokens import SoftToken

ALLOWED = {"KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true", "KMSD_LEGACY__KEY": "k8s-dek"}
PAIR = ("--p11-key-label=k8s-dek", "--p11-hmac-label=k8s-hmac", "--algorithm=aes-cbc")


@pytest.fixture
def plugins(token: SoftToken) -> SoftToken:
    """The token that k8s-kms-plugin used."""
    token.objects(*(key.step for key in K8S_KMS_PLUGIN_KEYS))
    return token


def rewrapped(native: bytes, flip: int = 0) -> bytes:
    """A value that a pair of kmsd's wrote, dressed as k8s-kms-plugin's aes-cbc, which nothing authenticates."""
    _, _, iv, ciphertext, _ = native.split(b".")
    blocks, first = unb64(ciphertext), bytearray(unb64(iv))
    first[0] ^= flip
    size = b64((len(blocks) - 1).to_bytes(8, "big")).decode()
    members = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "_thales_aad": size, "enc": "A256CBC"}
    # k8s-kms-plugin's tag is the same for every value.
    return compact(members, bytes(first), blocks, unb64(CBC[0].ciphertext.split(b".")[4]))


def decrypt(kmsd: Kmsd, cipher: bytes, timeout: float = 5.0) -> bytes:
    request = v1beta1.DecryptRequest(version="v1beta1", cipher=cipher)
    plain: bytes = kmsd.v1beta1("Decrypt", request, timeout).plain
    return plain


def encrypt(kmsd: Kmsd, plaintext: bytes) -> bytes:
    answer: bytes = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="1")).ciphertext
    return answer


def refused(kmsd: Kmsd, cipher: bytes) -> Refusal:
    return refusal(decrypt, kmsd, cipher)


def test_what_the_write_key_wrote_is_not_read_without_its_protection(
    start_kmsd: Callable[..., Kmsd], plugins: SoftToken
) -> None:
    kmsd = start_kmsd(*PAIR, environment=ALLOWED).wait_ok()
    native = encrypt(kmsd, b"0123456789abcde")
    assert decrypt(kmsd, native) == b"0123456789abcde"
    for value in (rewrapped(native), rewrapped(native, flip=1), CBC[0].ciphertext):
        said = refused(kmsd, value)
        assert said.code == "FAILED_PRECONDITION"
        assert "legacy.key names 'k8s-dek', and that is, or was, a write key of kmsd" in said.details
        assert "kmsctl migrate plan" in said.hint
    assert any("legacy.key names 'k8s-dek'" in problem.message for problem in kmsd.status().problems)


@pytest.mark.parametrize("environment", [{}, {"KMSD_KEYS__LABEL": "k8s-kek"}], ids=["rotated", "label changed"])
def test_nor_what_a_key_wrote_that_was_the_write_key_once(
    start_kmsd: Callable[..., Kmsd], plugins: SoftToken, environment: Mapping[str, str]
) -> None:
    before = start_kmsd(*PAIR).wait_ok()
    native = encrypt(before, b"0123456789abcde")
    if not environment:
        before.admin("RotateKey", timeout=30.0)
    before.stop()
    old = next(key for key in K8S_KMS_PLUGIN_KEYS if key.label == "k8s-dek").key_id
    flags = ("--p11-hmac-label=k8s-hmac", "--auto-create") if environment else PAIR
    after = start_kmsd(*flags, environment={**ALLOWED, **environment, "KMSD_LEGACY__KEY": old}).wait_ok()
    said = refused(after, rewrapped(native))
    assert said.code == "FAILED_PRECONDITION"
    assert "write key of" in said.details
    assert decrypt(after, native) == b"0123456789abcde"


def test_a_key_that_never_wrote_here_reads_what_the_k8s_kms_plugin_wrote(
    start_kmsd: Callable[..., Kmsd], plugins: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", environment=ALLOWED).wait_ok()
    for vector in CBC:
        assert decrypt(kmsd, vector.ciphertext) == vector.plaintext


def test_every_failure_is_one_answer_after_one_time_and_few_are_given(
    start_kmsd: Callable[..., Kmsd], plugins: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", "--p11-hmac-label=k8s-hmac", environment=ALLOWED).wait_ok()
    odd = next(vector for vector in CBC if len(vector.plaintext) % 16)
    head, _, iv, ciphertext, tag = odd.ciphertext.split(b".")
    wrong_tag = b".".join((head, b"", iv, ciphertext, b"A" * len(tag)))
    # The last block is random then, and ends in zeros by a chance of one in 256 or less.
    wrong_padding = b".".join((head, b"", iv, ciphertext[:-8] + b"AAAAAAA" + ciphertext[-1:], tag))
    said: list[tuple[str, str]] = []
    for value in (wrong_tag, wrong_padding) * 2:
        began = time.monotonic()
        answer = refused(kmsd, value)
        assert 0.09 < time.monotonic() - began < 3.0
        said.append((answer.code, answer.details))
    assert len(set(said)) == 1
    assert said[0][0] == "INVALID_ARGUMENT"

    def ask(_: int) -> str:
        return _code(kmsd, wrong_padding)

    with ThreadPoolExecutor(40) as pool:
        codes = list(pool.map(ask, range(40)))
    assert codes.count("INVALID_ARGUMENT") == 16 - len(said)
    assert codes.count("RESOURCE_EXHAUSTED") + codes.count("DEADLINE_EXCEEDED") == 40 - 12
    # What is authenticated is not held up by it.
    assert wait_for(lambda: decrypt(kmsd, encrypt(kmsd, b"seed")) == b"seed")


def _code(kmsd: Kmsd, value: bytes) -> str:
    try:
        decrypt(kmsd, value, 3.0)
    except grpc.RpcError as error:
        return told(error).code
    return "OK"
