"""What one stored value says of itself, as kube-apiserver writes it and as nobody would."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmsd.etcd.envelope import (
    PREFIX,
    Damaged,
    Encoding,
    KmsValue,
    Need,
    Plain,
    Transform,
    Transformed,
    Value,
    need,
    parse,
)
from kmsd.formats.ciphertext import CiphertextFormat, KeyName, identify
from tests.e2e.encrypted_object import AES_GCM_KEY, EncryptedObject
from tests.etcd.values import (
    K8S_KMS_PLUGIN_CBC,
    K8S_KMS_PLUGIN_GCM,
    NEW_ID,
    OLD_ID,
    SEALED,
    jwe,
    k8s_kms_plugin_gcm,
    keysealer,
    native,
    v1,
    v2,
)
from tests.rpc.vectors import GCM


def kms(value: bytes) -> KmsValue:
    found = parse(value)
    assert isinstance(found, KmsValue), found
    return found


def test_a_v2_value_names_its_key_in_the_envelope() -> None:
    found = kms(v2(OLD_ID))
    assert found == KmsValue("v2", "kmsd", native(OLD_ID), len(SEALED), OLD_ID, "HKDF_SHA256_XNONCE_AES_GCM_SEED", ())
    assert found.prefix == "k8s:enc:kms:v2:"
    assert need(found) == Need(CiphertextFormat.NATIVE, KeyName(OLD_ID))


def test_a_v2_value_of_kubernetes_before_seeds_has_a_key_and_annotations() -> None:
    body = EncryptedObject(SEALED, OLD_ID, b"opaque", {"kms.example.com": b"\xff", "a.b": b""}, AES_GCM_KEY)
    found = kms(b"k8s:enc:kms:v2:kmsd:" + body.to_bytes())
    assert found.source_type == "AES_GCM_KEY"
    assert found.annotations == ("a.b", "kms.example.com")


def test_a_v2_value_of_another_plugin_still_names_its_key() -> None:
    found = kms(v2("arn:aws:kms:key/1", b"\x01\x02opaque", b"aws"))
    assert need(found) == Need(CiphertextFormat.UNKNOWN, KeyName("arn:aws:kms:key/1"))


def test_a_v1_value_names_its_key_in_the_ciphertext() -> None:
    found = kms(v1(native(OLD_ID)))
    assert (found.version, found.data_bytes, found.encrypted_dek) == ("v1", len(SEALED), native(OLD_ID))
    assert need(found) == Need(CiphertextFormat.NATIVE, KeyName(OLD_ID))


@pytest.mark.parametrize("vector", GCM, ids=lambda each: each.key_label)
def test_what_the_k8s_kms_plugin_wrote_names_a_label(vector: object) -> None:
    (found,) = [each for each in GCM if each is vector]
    assert need(kms(v1(found.ciphertext))) == Need(
        CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName(found.key_label, by_label=True)
    )


@pytest.mark.parametrize("ciphertext", K8S_KMS_PLUGIN_CBC)
def test_what_the_k8s_kms_plugin_wrote_with_aes_cbc_may_need_any_key(ciphertext: bytes) -> None:
    found = need(kms(v1(ciphertext)))
    assert (found.format, found.key) == (CiphertextFormat.K8S_KMS_PLUGIN_CBC, None)
    assert found.reason == "the encrypted data key names no key"


@pytest.mark.parametrize(
    ("cka_id", "key_id"),
    [(b"\x00\xff\x10", "0x00ff10"), (NEW_ID.encode(), NEW_ID), (b"a b", "0x612062")],
    ids=["binary", "uuid", "space"],
)
def test_the_successors_hex_is_turned_into_the_key_id_that_kmsd_shows(cka_id: bytes, key_id: str) -> None:
    assert need(kms(v1(keysealer(cka_id)))) == Need(CiphertextFormat.KEYSEALER, KeyName(key_id))


def test_a_pair_and_rsa_are_native_too() -> None:
    for header in (
        {"alg": "dir", "kid": OLD_ID, "enc": "A256CBC-HS512"},
        {"alg": "dir", "kid": OLD_ID, "enc": "A256CBC-HS256", "hkid": "mac"},
        {"alg": "RSA-OAEP-256", "kid": OLD_ID, "enc": "A256GCM"},
    ):
        iv = 16 if "CBC" in header["enc"] else 12
        assert need(kms(v1(jwe(header, iv=iv)))) == Need(CiphertextFormat.NATIVE, KeyName(OLD_ID))


def test_a_v2_value_in_the_k8s_kms_plugins_format_is_counted_by_its_key_id_if_it_has_one() -> None:
    assert need(kms(v2(OLD_ID, k8s_kms_plugin_gcm("k8s-kek")))) == Need(
        CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName(OLD_ID)
    )
    by_label = need(kms(v2("k8s-kek", k8s_kms_plugin_gcm("k8s-kek"))))
    assert by_label == Need(CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName("k8s-kek", by_label=True))
    assert need(kms(v2(OLD_ID, K8S_KMS_PLUGIN_CBC[0]))) == Need(CiphertextFormat.K8S_KMS_PLUGIN_CBC, KeyName(OLD_ID))


@pytest.mark.parametrize("iv", [12, 16])
@pytest.mark.parametrize("enc", ["A128GCM", "A192GCM", "A256GCM"])
@pytest.mark.parametrize("cka_id", [bytes.fromhex("d73f87d08873be56"), b"kek1", NEW_ID.encode()])
def test_what_keysealer_wrote_with_aes_gcm_names_its_key_by_id_and_by_label(cka_id: bytes, enc: str, iv: int) -> None:
    """In v2 alone, with the hexadecimal digits of CKA_ID in the envelope, and enc by the key's size."""
    value = v2(cka_id.hex(), jwe({"alg": "dir", "kid": "kek-256", "enc": enc}, iv=iv))
    assert need(kms(value)) == Need(CiphertextFormat.K8S_KMS_PLUGIN_GCM, KeyName(cka_id.hex()), label="kek-256")


@pytest.mark.parametrize("cka_id", [b"\x00\xff\x10", b"kek1"])
def test_what_keysealer_wrote_with_aes_cbc_is_counted_as_the_envelope_spells_it(cka_id: bytes) -> None:
    assert need(kms(v2(cka_id.hex(), keysealer(cka_id)))) == Need(CiphertextFormat.KEYSEALER, KeyName(cka_id.hex()))


def test_two_spellings_of_one_id_do_not_disagree() -> None:
    assert need(kms(v2("00FF10", native(OLD_ID)))) == Need(CiphertextFormat.NATIVE, KeyName("00FF10"))


def test_an_envelope_and_a_ciphertext_that_disagree_may_need_either_key() -> None:
    found = need(kms(v2(NEW_ID, native(OLD_ID))))
    assert found.key is None
    assert found.reason == "the envelope and its data key name different keys"


def test_a_provider_may_be_called_anything_without_a_colon() -> None:
    for name in (b"kms.example.com", b"we ird\n\x1b[2J", "schlüssel".encode(), b"", b"x" * 1024):
        assert kms(v1(native(), name)).provider == name.decode()
        assert kms(v2(NEW_ID, provider=name)).provider == name.decode()
    assert kms(v1(native(), b"\xff")).provider == "\\xff"


@pytest.mark.parametrize("transform", Transform)
def test_what_kube_apiserver_encrypts_itself_needs_no_kms(transform: Transform) -> None:
    assert parse(f"k8s:enc:{transform}:v1:key1:".encode() + SEALED) == Transformed(transform)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"k8s\0\x0a\x0c", Encoding.PROTOBUF),
        (b'{"kind":"Secret"}', Encoding.JSON),
        (b'\n  {"kind":"Secret"}', Encoding.JSON),
        (b"\x01\x02", Encoding.OTHER),
        (b"10.0.0.1", Encoding.OTHER),
        (b"", Encoding.EMPTY),
    ],
)
def test_what_is_not_encrypted_is_plain(value: bytes, encoding: Encoding) -> None:
    assert parse(value) == Plain(encoding)


DAMAGED = {
    b"k": "cut short within its prefix",
    b"k8s:enc:": "cut short within its prefix",
    b"k8s:enc:aesc": "cut short within its prefix",
    b"k8s:enc:rot13:v1:x": "an unknown transform",
    b"k8s:enc:" + b"x" * 100: "an unknown transform",
    b"k8s:enc:kms": "cut short within its prefix",
    b"k8s:enc:kms:": "cut short within its prefix",
    b"k8s:enc:kms:v2": "cut short within its prefix",
    b"k8s:enc:kms:v3:kmsd:x": "an unknown version of the KMS envelope",
    b"k8s:enc:kms:" + b"v" * 100: "an unknown version of the KMS envelope",
    b"k8s:enc:kms:v1:kms": "cut short within its prefix",
    b"k8s:enc:kms:v1:" + b"x" * 1025 + b":": "a provider's name is too long",
    b"k8s:enc:kms:v1:kmsd:": "cut short before the encrypted data key",
    b"k8s:enc:kms:v1:kmsd:\0": "cut short before the encrypted data key",
    b"k8s:enc:kms:v1:kmsd:\0\0" + SEALED: "there is no encrypted data key",
    b"k8s:enc:kms:v1:kmsd:\0\x05abc": "cut short within the encrypted data key",
    v1(native(), sealed=b""): "cut short within the encrypted object",
    v1(native(), sealed=b"x" * 27): "cut short within the encrypted object",
    b"k8s:enc:kms:v2:kmsd:": "there is no key id",
    b"k8s:enc:kms:v2:kmsd:\xff\xff": "not an EncryptedObject, or cut short",
    v2(NEW_ID)[:-3]: "not an EncryptedObject, or cut short",
    v2("", b"dek"): "there is no key id",
    v2("k" * 1025, b"dek"): "the key id is too long",
    v2(NEW_ID, b""): "there is no encrypted data key",
    v2(NEW_ID, b"d" * 1025): "too long a data key",
    v2(NEW_ID, sealed=b""): "there is no encrypted object",
    v2(NEW_ID) + b"\x28\x07": "an unknown kind of data key",
    b"k8s:enc:kms:v2:kmsd:" + b"\x12\x02\xff\xff": "not an EncryptedObject, or cut short",
}


@pytest.mark.parametrize("value", DAMAGED, ids=lambda each: repr(each[:40]))
def test_what_is_damaged_is_told_apart_by_its_reason(value: bytes) -> None:
    found = parse(value)
    assert isinstance(found, Damaged)
    assert found.reason == DAMAGED[value]


@pytest.mark.parametrize(
    "dek",
    [
        b"opaque",
        b"a.b.c.d",
        b"a.b.c.d.e.f",
        b"....",
        b"!!.." + b"..",
        jwe({"alg": "dir", "enc": "A256GCM"}),
        jwe({"kid": OLD_ID}),
        jwe({"alg": "dir", "kid": 7, "enc": "A256GCM"}),
        jwe({"alg": "dir", "kid": "k" * 1025, "enc": "A256GCM"}),
        jwe({"alg": "dir", "kid": "\ud800", "enc": "A256GCM"}),
        jwe({"alg": "dir", "kid": "k", "enc": "A256GCM", "x": "x" * 5000}),
        b"W10.." + b"..",
        b"[" * 4000 + b"....",
    ],
)
def test_a_v1_value_of_an_unknown_format_may_need_any_key(dek: bytes) -> None:
    found = need(kms(v1(dek)))
    assert (found.format, found.key) == (CiphertextFormat.UNKNOWN, None)
    assert found.reason == "the encrypted data key is of no format that is known"


REASONS = set(DAMAGED.values())
BODIES = st.binary(max_size=200)


def told(value: bytes) -> Value:
    found = parse(value)
    if isinstance(found, KmsValue):
        needed = need(found)
        assert (needed.key is None) == bool(needed.reason)
    elif isinstance(found, Damaged):
        assert found.reason in REASONS
    return found


@given(BODIES)
def test_any_bytes_are_something(value: bytes) -> None:
    told(value)


@given(st.sampled_from([PREFIX, b"k8s:enc:kms:", b"k8s:enc:kms:v1:p:", b"k8s:enc:kms:v2:p:"]), BODIES)
@example(b"k8s:enc:kms:v1:p:", b"\xff\xff" + b"x" * 70000)
def test_any_bytes_behind_a_prefix_are_something_and_never_plain(prefix: bytes, body: bytes) -> None:
    assert not isinstance(told(prefix + body), Plain)


@given(st.data())
def test_a_real_value_that_is_cut_or_bent_is_something(data: st.DataObject) -> None:
    value = bytearray(data.draw(st.sampled_from([v1(native()), v2(NEW_ID), v1(K8S_KMS_PLUGIN_GCM[0])])))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(0, 255))
    told(bytes(value[: data.draw(st.integers(0, len(value)))]))


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
def test_any_header_is_identified(kid: str, members: dict[str, object]) -> None:
    found = identify(jwe({"alg": "dir", "enc": "A256GCM", "kid": kid, **members}))
    assert found.key is None or json.dumps(found.key.text)


def test_neither_class_shows_what_it_holds() -> None:
    assert "SSSS" not in repr(kms(v1(b"SSSS.SSSS")))
