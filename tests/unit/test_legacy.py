"""The foreign aes-cbc formats: what those programs wrote is taken apart, and nothing else is."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.formats import jwe, k8s_kms_plugin
from tests.keysealer import VECTORS, ForeignVector
from tests.rpc.vectors import CBC, K8S_KMS_PLUGIN_KEYS, Vector

ANCESTOR = CBC[0].ciphertext
SUCCESSOR = VECTORS[0].ciphertext
AES = next(key.value for key in K8S_KMS_PLUGIN_KEYS if key.label == CBC[0].key_label)
HMAC = next(key.value for key in K8S_KMS_PLUGIN_KEYS if key.type == "hmac")
GOOD = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "_thales_aad": "AAAAAAAAAAQ", "enc": "A256CBC"}


def _decrypt(key: bytes, iv: bytes, blocks: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor().update(blocks)


@pytest.mark.parametrize("vector", CBC, ids=lambda vector: len(vector.plaintext))
def test_what_the_k8s_kms_plugin_wrote_comes_apart(vector: Vector) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    assert not parsed.authenticated
    assert parsed.size == len(vector.plaintext)
    assert parsed.plaintext(_decrypt(AES, parsed.iv, parsed.blocks)) == vector.plaintext
    # One tag for all of them: an HMAC over nothing.
    assert parsed.mac_input == b""
    assert parsed.tag == hmac.new(HMAC, b"", hashlib.sha256).digest()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.key.label}-{len(vector.plaintext)}")
def test_what_the_successor_writes_comes_apart(vector: ForeignVector) -> None:
    parsed = k8s_kms_plugin.parse_cbc(vector.ciphertext)
    assert parsed.authenticated
    assert parsed.cka_id == vector.key.cka_id
    assert parsed.tag == hmac.new(vector.hmac.value, parsed.mac_input, hashlib.sha256).digest()
    assert parsed.plaintext(_decrypt(vector.key.value, parsed.iv, parsed.blocks)) == vector.plaintext


def test_what_the_mac_of_the_successor_is_over() -> None:
    head, _, iv, ciphertext, _ = SUCCESSOR.split(b".")
    decoded = jwe.decode(iv, "iv") + jwe.decode(ciphertext, "ciphertext")
    # The length of the header in octets, where RFC 7518 has bits.
    assert k8s_kms_plugin.parse_cbc(SUCCESSOR).mac_input == head + decoded + len(head).to_bytes(8, "big")


def test_no_two_tags_of_the_successor_are_the_same() -> None:
    assert len({k8s_kms_plugin.parse_cbc(vector.ciphertext).tag for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"alg": "dir"}, "alg is not A256CBC"),
        ({"alg": ["A256CBC"]}, "alg is not A256CBC"),
        ({"enc": "A256GCM"}, "enc is not A256CBC"),
        ({"enc": None}, "enc is not A256CBC"),
        ({"typ": "JOSE"}, "typ is not JWT"),
        ({"cty": ""}, "cty is not JWT"),
        ({"zip": "DEF"}, "has not the members"),
        ({"crit": []}, "has not the members"),
        ({"_thales_aad": 4}, "length in the header is not"),
        ({"_thales_aad": None}, "length in the header is not"),
        ({"_thales_aad": ""}, "length in the header is not"),
        ({"_thales_aad": "AAAAAAAAAAA"}, "length in the header is not one"),
        ({"_thales_aad": "AAAABA"}, "length in the header is not one"),
        ({"_thales_aad": "AAAAAAAAAAAE"}, "length in the header is not one"),
        ({"_thales_aad": "AAAAAAAAAAQ="}, "length in the header must be base64url"),
        ({"_thales_aad": "AAAAAAAAAAR"}, "length in the header must be base64url"),
        ({"_thales_aad": "\ud800"}, "length in the header is not"),
        ({"_thales_aad": "ä"}, "length in the header is not"),
        ({"_thales_aad": "AAAAAAAAABA"}, "does not fit the ciphertext"),
        ({"_thales_aad": "__________8"}, "does not fit the ciphertext"),
        ({"kid": ""}, "not the CKA_ID"),
        ({"kid": None}, "not the CKA_ID"),
        ({"kid": 6}, "not the CKA_ID"),
        ({"kid": "6"}, "not the CKA_ID"),
        ({"kid": "0G"}, "not the CKA_ID"),
        ({"kid": "AB"}, "not the CKA_ID"),
        ({"kid": "0 6"}, "not the CKA_ID"),
    ],
)
def test_other_headers_are_refused(changed: dict[str, object], says: str) -> None:
    head = jwe.encode(json.dumps(GOOD | changed, separators=(",", ":")).encode())
    with pytest.raises(jwe.JweError, match=says):
        k8s_kms_plugin.parse_cbc(b".".join([head, *ANCESTOR.split(b".")[1:]]))


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_member_is_refused(name: str) -> None:
    head = jwe.encode(json.dumps({k: v for k, v in GOOD.items() if k != name}, separators=(",", ":")).encode())
    with pytest.raises(jwe.JweError, match="has not the members"):
        k8s_kms_plugin.parse_cbc(b".".join([head, *ANCESTOR.split(b".")[1:]]))


@pytest.mark.parametrize("text", [json.dumps(GOOD), json.dumps(dict(reversed(GOOD.items())), separators=(",", ":"))])
def test_the_k8s_kms_plugins_header_has_one_spelling(text: str) -> None:
    """Nothing authenticates it, so nothing else of it may vary."""
    with pytest.raises(jwe.JweError, match="not spelled as"):
        k8s_kms_plugin.parse_cbc(b".".join([jwe.encode(text.encode()), *ANCESTOR.split(b".")[1:]]))


@pytest.mark.parametrize("compact", [ANCESTOR, CBC[1].ciphertext, SUCCESSOR], ids=["4", "16", "successor"])
@pytest.mark.parametrize(
    ("segment", "value", "says"),
    [
        (1, b"AAAA", "encrypted key"),
        (2, b"", "IV and the tag"),
        (2, jwe.encode(bytes(12)), "IV and the tag"),
        (3, b"", "does not fit"),
        (3, jwe.encode(bytes(48)), "does not fit"),
        (3, jwe.encode(bytes(17)), "does not fit"),
        (4, b"", "IV and the tag"),
        (4, jwe.encode(bytes(16)), "IV and the tag"),
        (4, jwe.encode(bytes(33)), "IV and the tag"),
    ],
)
def test_parts_of_other_sizes_are_refused(compact: bytes, segment: int, value: bytes, says: str) -> None:
    segments = compact.split(b".")
    segments[segment] = value
    with pytest.raises(jwe.JweError, match=says):
        k8s_kms_plugin.parse_cbc(b".".join(segments))


def test_the_block_that_was_not_encrypted_is_zero() -> None:
    segments = CBC[1].ciphertext.split(b".")
    for place in (16, 31):
        raw = bytearray(jwe.decode(segments[3], "ciphertext"))
        raw[place] ^= 1
        with pytest.raises(jwe.JweError, match="block behind the ciphertext is not zero"):
            k8s_kms_plugin.parse_cbc(b".".join([*segments[:3], jwe.encode(bytes(raw)), segments[4]]))


def test_padding_that_is_not_zero_is_no_plaintext() -> None:
    parsed = k8s_kms_plugin.parse_cbc(ANCESTOR)
    assert parsed.plaintext(b"seed" + bytes(12)) == b"seed"
    for place in (4, 15):
        assert parsed.plaintext(b"seed" + bytes(place - 4) + b"\1" + bytes(15 - place)) is None


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([ANCESTOR, CBC[2].ciphertext, SUCCESSOR]), st.data())
def test_a_changed_character_is_refused_or_seen_in_what_is_read(compact: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(compact) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != compact[place]))
    with contextlib.suppress(jwe.JweError):
        altered = k8s_kms_plugin.parse_cbc(compact[:place] + bytes([other]) + compact[place + 1 :])
        assert altered != k8s_kms_plugin.parse_cbc(compact)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=300) | st.lists(st.binary(max_size=40).map(jwe.encode), min_size=5, max_size=5).map(b".".join)
)
def test_whatever_comes_is_answered(compact: bytes) -> None:
    with pytest.raises(jwe.JweError):
        k8s_kms_plugin.parse_cbc(compact)


def test_native_jwes_are_not_taken_for_foreign_ones() -> None:
    for header in (jwe.header("k", "A256GCM"), jwe.header("k", "A256CBC-HS256")):
        with pytest.raises(jwe.JweError):
            k8s_kms_plugin.parse_cbc(jwe.assemble(header, bytes(16), bytes(48), 32))
