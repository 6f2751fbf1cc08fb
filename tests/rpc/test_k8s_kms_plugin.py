"""Taking over from k8s-kms-plugin: what it wrote is read, and its aes-gcm format can be written."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd
from tests.rpc.refusals import refusal
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS, Vector
from tests.tokens import SoftToken

WEIRD = 'we<ird>&"label'
BY_LABEL = {key.label: key for key in K8S_KMS_PLUGIN_KEYS}


def _read_v1(kmsd: Kmsd, cipher: bytes) -> bytes:
    answer = kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=cipher))
    plain: bytes = answer.plain
    return plain


def _name(vector: Vector) -> str:
    return f"{vector.key_label}-{len(vector.plaintext)}"


def test_the_vectors_cover_what_is_odd_about_them() -> None:
    assert {vector.key_label for vector in GCM} == {"k8s-dek", "aes128", WEIRD}
    assert len(BY_LABEL["aes128"].value) == 16
    assert len(CBC) == 4


@pytest.mark.parametrize("vector", GCM, ids=_name)
def test_what_the_k8s_kms_plugin_wrote_with_aes_gcm_is_read(served: Kmsd, vector: Vector) -> None:
    assert _read_v1(served, vector.ciphertext) == vector.plaintext


@pytest.mark.parametrize("vector", GCM, ids=_name)
def test_it_is_read_through_v2_too_under_the_id_of_its_key(served: Kmsd, vector: Vector) -> None:
    request = v2.DecryptRequest(ciphertext=vector.ciphertext, key_id=BY_LABEL[vector.key_label].key_id)
    assert served.v2("Decrypt", request).plaintext == vector.plaintext


def test_v2_refuses_it_under_the_id_of_another_key(served: Kmsd) -> None:
    request = v2.DecryptRequest(ciphertext=GCM[0].ciphertext, key_id=BY_LABEL["aes128"].key_id)
    refused = refusal(served.v2, "Decrypt", request)
    assert refused.code == "INVALID_ARGUMENT"
    assert "key_id" in refused.details


@pytest.mark.parametrize("vector", CBC, ids=_name)
def test_what_it_wrote_with_aes_cbc_is_refused_in_plain_words(served: Kmsd, vector: Vector) -> None:
    refused = refusal(_read_v1, served, vector.ciphertext)
    assert refused.code == "FAILED_PRECONDITION"
    assert "written by k8s-kms-plugin with aes-cbc, whose tag authenticates nothing: it is not read" in refused.details
    assert "legacy.allow_unauthenticated" in refused.hint


@pytest.fixture
def with_k8s_kms_plugin_keys(token: SoftToken) -> SoftToken:
    token.objects(*(key.step for key in K8S_KMS_PLUGIN_KEYS))
    return token


@pytest.mark.parametrize("restarted", [False, True], ids=["at-once", "after-a-restart"])
def test_old_data_is_read_after_its_label_has_moved_to_a_new_key(
    start_kmsd: Callable[..., Kmsd], with_k8s_kms_plugin_keys: SoftToken, restarted: bool
) -> None:
    kmsd = start_kmsd("--p11-key-label=k8s-dek", name="a").wait_ok()
    with_k8s_kms_plugin_keys.relabel("k8s-dek", "k8s-dek@2026-01-31T235959Z")
    new = kmsd.keygen("k8s-dek")
    if restarted:
        kmsd.stop()
        kmsd = start_kmsd("--p11-key-label=k8s-dek", name="b").wait_ok()
    assert kmsd.v2("Status").key_id == new.key_id != BY_LABEL["k8s-dek"].key_id
    for vector in GCM:
        assert _read_v1(kmsd, vector.ciphertext) == vector.plaintext


def test_a_label_that_no_key_ever_held_is_not_found(served: Kmsd) -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"dir","kid":"k8s-de","enc":"A256GCM"}').rstrip(b"=")
    refused = refusal(_read_v1, served, b".".join([head, *GCM[0].ciphertext.split(b".")[1:]]))
    assert refused.code == "NOT_FOUND"
    assert "'k8s-de'" in refused.details


@pytest.fixture(params=[WEIRD, "aes128"])
def writer(
    request: pytest.FixtureRequest, start_kmsd: Callable[..., Kmsd], with_k8s_kms_plugin_keys: SoftToken
) -> tuple[Kmsd, str]:
    environment = {"KMSD_KEYS__WRITE_FORMAT": "k8s-kms-plugin"}
    return start_kmsd(f"--p11-key-label={request.param}", environment=environment).wait_ok(), request.param


def test_its_format_can_be_written_so_that_a_migration_can_be_rolled_back(writer: tuple[Kmsd, str]) -> None:
    kmsd, label = writer
    theirs = next(vector for vector in GCM if vector.key_label == label)
    assert kmsd.status().write_format == "k8s-kms-plugin"
    for plaintext in (b"ping", bytes(32)):
        written = kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=plaintext)).cipher
        header, key, iv, ciphertext, tag = written.split(b".")
        assert header == theirs.ciphertext.split(b".")[0]
        assert key == b""
        sizes = [len(base64.urlsafe_b64decode(part + b"==")) for part in (iv, ciphertext, tag)]
        assert sizes == [16, len(plaintext), 16]
        assert _read_v1(kmsd, written) == plaintext
        new = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext))
        assert new.key_id == BY_LABEL[label].key_id == kmsd.v2("Status").key_id
        assert new.ciphertext.split(b".")[0] == header
        read = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=new.ciphertext, key_id=new.key_id))
        assert read.plaintext == plaintext


def test_what_the_native_format_wrote_is_read_while_the_other_is_written(
    start_kmsd: Callable[..., Kmsd], with_k8s_kms_plugin_keys: SoftToken
) -> None:
    native = start_kmsd("--p11-key-label=k8s-dek", name="a").wait_ok()
    before = native.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed"))
    native.stop()
    other = start_kmsd(
        "--p11-key-label=k8s-dek", name="b", environment={"KMSD_KEYS__WRITE_FORMAT": "k8s-kms-plugin"}
    ).wait_ok()
    request = v2.DecryptRequest(ciphertext=before.ciphertext, key_id=before.key_id)
    assert other.v2("Decrypt", request).plaintext == b"seed"
