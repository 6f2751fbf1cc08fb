"""Every ciphertext is explained without its key: what it is, what it needs, what is wrong with it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.service.inspect import INPUT_MAX, Inspection, inspect
from tests.etcd.values import (
    K8S_KMS_PLUGIN_CBC,
    NEW_ID,
    OLD_ID,
    SEALED,
    b64url,
    jwe,
    k8s_kms_plugin_gcm,
    keysealer,
    native,
    v1,
    v2,
)
from tests.rpc.vectors import CBC, GCM


def fatal(found: Inspection) -> list[str]:
    return [each.message for each in found.findings if each.fatal]


def told(found: Inspection) -> str:
    return "\n".join(each.message for each in found.findings)


def test_a_native_ciphertext_is_sound_and_names_its_key() -> None:
    found = inspect(native())
    assert (found.format, found.key_ids, found.labels) == ("native", (NEW_ID,), ())
    assert found.findings == ()
    assert found.intact
    assert found.jwe is not None
    assert (found.jwe.alg, found.jwe.enc, found.jwe.kid) == ("dir", "A256GCM", NEW_ID)
    assert (found.jwe.iv_bytes, found.jwe.ciphertext_bytes, found.jwe.tag_bytes) == (12, 32, 16)
    assert json.loads(found.jwe.header) == {"alg": "dir", "kid": NEW_ID, "enc": "A256GCM"}


@pytest.mark.parametrize(
    ("enc", "tag"), [("A128CBC-HS256", 16), ("A256CBC-HS512", 32), ("A256CBC-HS256", 32), ("A192GCM", 16)]
)
def test_every_enc_of_the_native_format_is_sound(enc: str, tag: int) -> None:
    found = inspect(jwe({"alg": "dir", "kid": OLD_ID, "enc": enc}, iv=16 if "CBC" in enc else 12, tag=tag))
    assert (found.format, found.findings) == ("native", ())


def test_a_pair_with_two_ids_names_both() -> None:
    found = inspect(jwe({"alg": "dir", "kid": "aes", "enc": "A256CBC-HS512", "hkid": "mac"}, iv=16, tag=32))
    assert found.jwe is not None
    assert found.jwe.hkid == "mac"
    assert found.intact


@pytest.mark.parametrize("vector", GCM)
def test_what_the_k8s_kms_plugin_wrote_with_gcm_is_explained(vector: object) -> None:
    (each,) = [one for one in GCM if one is vector]
    found = inspect(each.ciphertext)
    assert (found.format, found.key_ids, found.labels) == ("k8s-kms-plugin aes-gcm", (), (each.key_label,))
    assert found.intact
    assert found.jwe is not None
    assert found.jwe.iv_bytes == 16
    assert found.jwe.ciphertext_bytes == len(each.plaintext)
    assert "the IV has 16 bytes" in told(found)
    assert "kid is a label" in told(found)


@pytest.mark.parametrize("vector", CBC)
def test_what_the_k8s_kms_plugin_wrote_with_cbc_is_explained_and_warned_about(vector: object) -> None:
    (each,) = [one for one in CBC if one is vector]
    found = inspect(each.ciphertext)
    assert found.format == "k8s-kms-plugin aes-cbc"
    assert (found.key_ids, found.labels, found.any_key, found.unauthenticated) == ((), (), True, True)
    assert found.intact
    assert "the tag authenticates nothing" in told(found)
    assert any("legacy.allow_unauthenticated" in each.hint for each in found.findings)


def test_what_the_successor_wrote_is_explained() -> None:
    found = inspect(keysealer(b"\x00\xff\x10"))
    assert (found.format, found.key_ids, found.any_key) == ("keysealer", (OLD_ID,), False)
    assert found.intact
    assert "hexadecimal" in told(found)


def test_a_v2_value_is_explained_with_what_is_around_it() -> None:
    found = inspect(v2(NEW_ID))
    assert (found.format, found.key_ids) == ("native", (NEW_ID,))
    assert found.intact
    assert found.envelope is not None
    assert (found.envelope.prefix, found.envelope.provider) == ("k8s:enc:kms:v2:", "kmsd")
    assert found.envelope.data_bytes == len(SEALED)
    assert found.summary == "A ciphertext of kmsd's own format, in a KMS v2 value of the provider 'kmsd'."


def test_a_v2_value_in_the_k8s_kms_plugins_format_names_a_key_id_and_a_label() -> None:
    found = inspect(v2(NEW_ID, k8s_kms_plugin_gcm("k8s-kek")))
    assert (found.key_ids, found.labels) == ((NEW_ID,), ("k8s-kek",))
    assert found.intact


@pytest.mark.parametrize("iv", [12, 16])
def test_what_keysealer_stored_with_gcm_names_its_key_by_the_envelopes_id_and_by_a_label(iv: int) -> None:
    found = inspect(v2("d73f87d08873be56", jwe({"alg": "dir", "kid": "kek-256", "enc": "A256GCM"}, iv=iv)))
    assert (found.format, found.key_ids, found.labels) == (
        "k8s-kms-plugin aes-gcm",
        ("d73f87d08873be56",),
        ("kek-256",),
    )
    assert found.summary.startswith("A ciphertext that KeySealer wrote with aes-gcm, in a KMS v2 value")
    assert found.intact


def test_a_v2_value_that_mixes_two_keys_is_fatal() -> None:
    found = inspect(v2(NEW_ID, native(OLD_ID)))
    assert found.key_ids == (NEW_ID, OLD_ID)
    assert "name different keys" in fatal(found)[0]


def test_a_v2_value_of_another_plugin_names_its_key_and_is_no_jwe() -> None:
    found = inspect(v2("arn:aws", b"opaque", b"aws"))
    assert (found.format, found.key_ids, found.any_key) == ("unknown", ("arn:aws",), False)
    assert fatal(found) == ["this is no compact JWE: 5 segments with dots between them"]


def test_a_v1_value_is_explained_by_its_ciphertext() -> None:
    found = inspect(v1(K8S_KMS_PLUGIN_CBC[0], b"old"))
    assert (found.format, found.unauthenticated) == ("k8s-kms-plugin aes-cbc", True)
    assert found.envelope is not None
    assert found.envelope.key_id == ""


VALUES = [native(), k8s_kms_plugin_gcm(), K8S_KMS_PLUGIN_CBC[0], keysealer(b"\1\2"), v1(native()), v2(NEW_ID)]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize(
    "encode",
    [
        base64.b64encode,
        base64.urlsafe_b64encode,
        b64url,
        base64.encodebytes,
        lambda data: b"  " + base64.b64encode(data) + b"\n",
    ],
    ids=["std", "url", "unpadded", "lines", "spaces"],
)
def test_base64_of_a_value_is_taken_for_the_value(value: bytes, encode: object) -> None:
    assert callable(encode)
    found = inspect(encode(value))
    assert found.findings[0].message == "the input was base64, and was decoded first"
    assert found.findings[1:] == inspect(value).findings
    assert (found.format, found.key_ids) == (inspect(value).format, inspect(value).key_ids)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_line_end_that_an_editor_put_there_does_no_harm(value: bytes) -> None:
    assert inspect(value + b"\n").key_ids == inspect(value).key_ids
    assert inspect(value + b"\n").intact


def test_what_kmsctl_encrypt_wrote_as_json_is_taken_for_its_ciphertext() -> None:
    document = {"ciphertext": base64.b64encode(native()).decode(), "key_id": NEW_ID, "annotations": {}}
    assert inspect(json.dumps(document).encode()) == inspect(native())


GOOD = {"alg": "dir", "kid": OLD_ID, "enc": "A256GCM"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "the input is empty"),
        (b"hello", "neither a JWE nor a value"),
        (b"\x01\x02\xff", "neither a JWE nor a value"),
        (b'{"kind":"Secret"}', "it is not encrypted"),
        (b"k8s\0\x0a", "it is not encrypted"),
        (b"k8s:enc:aescbc:v1:k:x", "no KMS is asked for it"),
        (b"k8s:enc:kms:v1:kmsd:\x00\x09short", "cut short within the encrypted data key"),
        (v2(NEW_ID)[:-3], "not an EncryptedObject, or cut short"),
        (native()[:-1], "truncated: the tag of A256GCM has 16 bytes, this has 15"),
        (native()[:20], "this ends within the first"),
        (base64.b64encode(b'{"kind":"Secret","apiVersion":"v1"}'), "it is not encrypted"),
        (b"/registry/x\nk8s:enc:kms:v2:a.b.c.d.e\x00", "neither a JWE nor a value"),
        (native().rpartition(b".")[0], "truncated: a compact JWE has 5 segments"),
        (native() + b".x", "this has 6"),
        (native() + b"=", "the tag must be base64url without padding"),
        (native().replace(b"..", b".AAAA."), "the encrypted key must be empty under alg dir"),
        (b"!" + native(), "must be the header of a JWE"),
        (b64url(b"[]") + b"....", "must be the header of a JWE"),
        (b"A" * 5000 + b"....", "4096 bytes at most, this has 5000"),
        (jwe({**GOOD, "enc": "A128GCM"}, iv=13), "the IV of A128GCM has 12 bytes, this has 13"),
        (
            jwe({**GOOD, "enc": "A256CBC-HS512"}, iv=16, tag=16),
            "truncated: the tag of A256CBC-HS512 has 32 bytes, this has 16",
        ),
        (jwe({**GOOD, "enc": "A256CBC-HS512"}, iv=16, tag=32, ciphertext=33), "whole blocks of 16 bytes, and has 33"),
        (jwe({**GOOD, "enc": "XC20P"}), "A256GCM, this has 'XC20P'"),
        (jwe({**GOOD, "alg": "A256KW"}), "RSA-OAEP-256, this has 'A256KW'"),
        (jwe({**GOOD, "crit": ["exp"]}), "asks for extensions (crit)"),
        (jwe({**GOOD, "zip": "DEF"}), "asks for compression (zip)"),
        (jwe({"alg": "dir", "enc": "A256GCM"}), "the header must name alg, enc and the key (kid)"),
        (jwe({"alg": "dir", "enc": "A256GCM"}, iv=16), "the header must name the key (kid)"),
        (keysealer(b"\1")[:-22], "truncated: the tag of "),
        (jwe({"_thales_aad": "AAAAAAAAABA"}, iv=16, ciphertext=16, tag=32), "a plaintext of 16 needs 32"),
        (jwe({"_thales_aad": "x"}, iv=16, ciphertext=16, tag=32), "must be the plaintext's length"),
        (jwe({"_thales_aad": 5}, iv=16, ciphertext=16, tag=32), "must be the plaintext's length"),
        (jwe(GOOD, ciphertext=1 << 20), "kmsd reads 1048576 bytes at most"),
        (b"x" * (INPUT_MAX + 1), "more than kube-apiserver stores"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_wrong_is_said_and_is_fatal(value: bytes, words: str) -> None:
    found = inspect(value)
    assert any(words in message for message in fatal(found)), found.findings
    assert not found.intact


def test_a_member_that_occurs_twice_is_fatal() -> None:
    header = b'{"alg":"dir","kid":"a","enc":"A256GCM","kid":"b"}'
    found = inspect(b".".join((b64url(header), *native().split(b".")[1:])))
    assert "a member of the header occurs twice" in fatal(found)


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = inspect(jwe({**GOOD, "zip": "DEF"}, iv=11, tag=3))
    assert len(fatal(found)) == 3


def test_every_fatal_finding_but_emptiness_says_what_to_do() -> None:
    for value in (native()[:-1], b"hello", v2(NEW_ID)[:-3], jwe({**GOOD, "enc": "x"}), b"k8s\0"):
        for each in inspect(value).findings:
            assert each.hint, each


@given(st.binary(max_size=300))
def test_any_bytes_are_explained(data: bytes) -> None:
    assert inspect(data).summary.endswith(".")


@given(st.sampled_from(VALUES), st.data())
def test_any_value_that_is_cut_or_bent_is_explained(value: bytes, data: st.DataObject) -> None:
    bent = bytearray(value)
    bent[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(0, 255))
    found = inspect(bytes(bent[: data.draw(st.integers(0, len(value)))]))
    assert found.summary.endswith(".")
    assert "SSSS" not in repr(found)


def test_long_input_is_looked_at_once_and_not_again_and_again() -> None:
    for value in (b"k8s:enc:kms:v2:kmsd:" + b"\n" * 100_000, b"A" + b" " * 1_000_000 + b"!", b"[" * 100_000):
        assert not inspect(value).intact
