"""InspectCiphertext with the keys of a token: explains, names the keys, and never decrypts."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.formats.ciphertext import CiphertextFormat
from tests.admin.calls import SEED, ask, encrypt, fresh, key, keys, make, stats
from tests.admin.conftest import BARE, BINARY_ID, READ_ONLY
from tests.daemons import Kmsd
from tests.etcd import values
from tests.rpc.refusals import assert_silent

UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"


@pytest.fixture(autouse=True)
def undecrypted(served: Kmsd) -> Iterator[None]:
    """The token has decrypted nothing after the test."""
    before = decrypts(served)
    yield
    assert decrypts(served) == before


def decrypts(kmsd: Kmsd) -> tuple[int, int]:
    """Of the token, but for its background probe, and of all keys."""
    frame = stats(kmsd, history_seconds=-1)
    operations = sum(each.count for each in frame.operations if each.method == "decrypt")
    return operations, sum(use.decrypts for use in frame.keys)


def inspect(kmsd: Kmsd, data: bytes) -> admin.InspectCiphertextResponse:
    answer: admin.InspectCiphertextResponse = ask(kmsd, "InspectCiphertext", data=data)
    assert answer.summary.endswith(".")
    return answer


def messages(answer: admin.InspectCiphertextResponse) -> str:
    return "; ".join(each.message for each in answer.findings)


def test_what_the_write_key_wrote_is_readable(served: Kmsd) -> None:
    sealed = encrypt(served)
    answer = inspect(served, sealed.ciphertext)
    assert (answer.format, answer.readable, list(answer.findings)) == ("native", True, [])
    assert [each.key_id for each in answer.keys] == [sealed.key_id]
    assert answer.keys[0].state == admin.KEY_STATE_WRITE
    jwe = answer.jwe
    assert (jwe.alg, jwe.enc, jwe.kid) == ("dir", "A256GCM", sealed.key_id)
    assert jwe.kid_sha256 == answer.keys[0].key_id_sha256
    assert (jwe.iv_bytes, jwe.ciphertext_bytes, jwe.tag_bytes) == (12, len(SEED), 16)
    assert jwe.header == f'{{"alg":"dir","kid":"{sealed.key_id}","enc":"A256GCM"}}'
    assert not answer.HasField("envelope")
    assert_silent(str(answer), SEED)


def test_what_no_key_here_wrote_says_which_is_missing(served: Kmsd) -> None:
    answer = inspect(served, values.native(UNKNOWN_ID))
    assert (answer.format, answer.readable, list(answer.keys)) == ("native", False, [])
    assert f"no key with key id '{UNKNOWN_ID}'" in messages(answer)
    assert any(each.fatal and each.hint for each in answer.findings)


def test_a_key_that_another_program_made_just_now_is_not_called_missing(served: Kmsd) -> None:
    """kmsd looks at the token before it says that data is lost."""
    key_id = fresh("made-elsewhere")
    served.soft.import_aes(key_id, bytes(32), key_id.encode())
    answer = inspect(served, values.native(key_id))
    assert [each.key_id for each in answer.keys] == [key_id]
    assert answer.readable


@pytest.mark.parametrize(
    ("value", "version", "key_id"),
    [
        (values.v2(f"0x{BINARY_ID.hex()}"), "v2", f"0x{BINARY_ID.hex()}"),
        (values.v1(values.native(f"0x{BINARY_ID.hex()}")), "v1", ""),
    ],
)
def test_a_value_from_etcd_is_explained_with_what_is_around_it(
    served: Kmsd, value: bytes, version: str, key_id: str
) -> None:
    for given in (value, base64.b64encode(value)):
        answer = inspect(served, given)
        assert answer.format == "native"
        assert answer.readable
        assert [each.label for each in answer.keys] == ["binary"]
        envelope = answer.envelope
        assert (envelope.prefix, envelope.provider, envelope.key_id) == (f"k8s:enc:kms:{version}:", "kmsd", key_id)
        assert envelope.encrypted_data_bytes == len(values.SEALED)
        assert envelope.encrypted_dek_bytes == len(values.native(f"0x{BINARY_ID.hex()}"))
        assert bool(envelope.key_id_sha256) == bool(key_id)
        assert_silent(str(answer), values.SEALED)


@pytest.mark.parametrize("ciphertext", values.K8S_KMS_PLUGIN_GCM)
def test_what_the_k8s_kms_plugin_wrote_belongs_to_keys_that_had_its_label(served: Kmsd, ciphertext: bytes) -> None:
    answer = inspect(served, ciphertext)
    assert answer.format == CiphertextFormat.K8S_KMS_PLUGIN_GCM
    if answer.jwe.kid not in (each.label for each in ask(served, "ListKeys").keys):
        assert not answer.readable
        assert f"no key labelled {answer.jwe.kid!r}" in messages(answer)


def test_every_key_that_has_had_the_label_may_have_written_it_newest_first(served: Kmsd) -> None:
    label = fresh("held")
    old, new = make(served, label), make(served, fresh())
    served.soft.relabel(label, f"{label}@20260102T030405Z")
    served.soft.relabel(new.label, label)
    key(served, label)  # a look
    answer = inspect(served, values.k8s_kms_plugin_gcm(label))
    assert [each.key_id for each in answer.keys] == [new.key_id, old.key_id]
    assert answer.readable


@pytest.mark.parametrize("ciphertext", values.K8S_KMS_PLUGIN_CBC)
def test_what_authenticates_nothing_is_not_called_readable(served: Kmsd, ciphertext: bytes) -> None:
    answer = inspect(served, ciphertext)
    assert (answer.format, answer.readable) == (CiphertextFormat.K8S_KMS_PLUGIN_CBC, False)
    assert "the tag authenticates nothing" in messages(answer)
    assert "it is not read" in messages(answer)
    assert any("legacy.allow_unauthenticated" in each.hint for each in answer.findings if each.fatal)


def test_what_a_keysealer_wrote_is_readable_only_beside_its_hmac_key(served: Kmsd) -> None:
    pair, alone = make(served, fresh("pair"), admin.KEY_TYPE_PAIR), make(served)
    assert inspect(served, values.keysealer(pair.key_id.encode())).readable
    answer = inspect(served, values.keysealer(alone.key_id.encode()))
    assert (answer.format, answer.readable) == (CiphertextFormat.KEYSEALER, False)
    assert "has no HMAC key beside it" in messages(answer)
    for made in (pair, alone):
        ask(served, "DestroyKey", key=made.key_id, confirm_label=made.label)


@pytest.mark.parametrize("spelling", ["00ff10", "00FF10", "0x00ff10", "0X00FF10"])
def test_a_key_is_found_by_every_spelling_of_its_id_and_shown_once(served: Kmsd, spelling: str) -> None:
    answer = inspect(served, values.v2(spelling, values.k8s_kms_plugin_gcm("binary"), b"kms-server"))
    assert [each.label for each in answer.keys] == ["binary"]


def test_a_key_that_cannot_serve_is_named_with_its_reason(served: Kmsd) -> None:
    key_id = fresh("unusable")
    for label in (fresh(), fresh()):
        served.soft.import_aes(label, bytes(32), key_id.encode())
    keys(served)  # a look
    answer = inspect(served, values.native(key_id))
    assert not answer.readable
    assert "2 keys have this key id" in messages(answer)
    assert all(each.hint for each in answer.findings)


def test_a_key_that_only_decrypts_reads(served: Kmsd) -> None:
    assert inspect(served, values.native(key(served, READ_ONLY).key_id)).readable


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the input is empty"),
        (b" \n", "the input is empty"),
        (b"\0\xff garbage", "neither a JWE nor a value"),
        (b"a.b.c.d.e", "must be the header of a JWE"),
        (b"k8s:enc:kms:v2:kmsd:garbage", "not an EncryptedObject"),
        (b"k8s:enc:kms:v9:", "unknown version"),
        (b'{"kind":"Secret"}', "it is not encrypted"),
        (b"k8s\0\n\x0c\n\x02v1\x12\x06Secret", "it is not encrypted"),
        (values.native(UNKNOWN_ID)[:-6], "truncated"),
        (values.native(BARE), f"no key with key id '{BARE}'"),
        (b"x" * 1_200_000, "neither a JWE nor a value"),
        (values.jwe({"alg": "dir", "kid": "k" * 3000, "enc": "A256GCM"}), "must name alg, enc and the key (kid)"),
        (values.v2("k" * 1024, values.k8s_kms_plugin_gcm()), f"no key with key id '{'k' * 20}"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(served: Kmsd, data: bytes, words: str) -> None:
    answer = inspect(served, data)
    assert words in messages(answer)
    assert not answer.readable
    assert not answer.keys
    assert any(each.fatal for each in answer.findings)
