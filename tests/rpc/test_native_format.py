"""The native format, with another JOSE library as the judge, and every key on the token serving by its id."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from joserfc import jwe
from joserfc.jwk import OctKey

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd
from tests.rpc.known import AES128, AES192, KEYS, WRITE, KnownKey
from tests.rpc.refusals import refusal
from tests.tokens import SoftToken

SEED = b"0123456789abcdef0123456789abcdef"
PLAINTEXTS = (b"p", b"ping", SEED, bytes(range(256)))


def _write(kmsd: Kmsd, plaintext: bytes) -> bytes:
    ciphertext: bytes = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext)).ciphertext
    return ciphertext


def _read(kmsd: Kmsd, ciphertext: bytes, key_id: str) -> bytes:
    plaintext: bytes = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id)).plaintext
    return plaintext


def _written_elsewhere(key: KnownKey, plaintext: bytes, **changed: str) -> bytes:
    """What joserfc writes with the key, in the native format."""
    header = {"alg": "dir", "kid": key.key_id, "enc": key.enc, **changed}
    registry = jwe.JWERegistry(algorithms=["dir", header["enc"]])
    return jwe.encrypt_compact(header, plaintext, OctKey.import_key(key.value), registry=registry).encode()


def _read_elsewhere(key: KnownKey, ciphertext: bytes) -> bytes:
    registry = jwe.JWERegistry(algorithms=["dir", key.enc])
    plaintext = jwe.decrypt_compact(ciphertext, OctKey.import_key(key.value), registry=registry).plaintext
    assert plaintext is not None
    return plaintext


def test_the_form_is_exactly_as_documented(served: Kmsd) -> None:
    header, encrypted_key, iv, ciphertext, tag = _write(served, SEED).split(b".")
    raw = base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
    assert raw == b'{"alg":"dir","kid":"%b","enc":"A256GCM"}' % WRITE.key_id.encode()
    assert encrypted_key == b""
    assert [len(base64.urlsafe_b64decode(part + b"==")) for part in (iv, ciphertext, tag)] == [12, 32, 16]


@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_joserfc_reads_what_kmsd_wrote(served: Kmsd, plaintext: bytes) -> None:
    assert _read_elsewhere(WRITE, _write(served, plaintext)) == plaintext


@pytest.mark.parametrize("key", [AES192, AES128], ids=lambda key: key.enc)
def test_a_write_key_of_another_size_names_its_own_enc(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, key: KnownKey
) -> None:
    token.objects(key.step)
    kmsd = start_kmsd(f"--p11-key-label={key.label}").wait_ok()
    written = _write(kmsd, SEED)
    header = json.loads(base64.urlsafe_b64decode(written.split(b".")[0] + b"=="))
    assert list(header.items()) == [("alg", "dir"), ("kid", key.key_id), ("enc", key.enc)]
    assert _read_elsewhere(key, written) == SEED
    assert _read(kmsd, written, key.key_id) == SEED


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.enc)
@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_kmsd_reads_what_joserfc_wrote_with_any_key_on_the_token(served: Kmsd, key: KnownKey, plaintext: bytes) -> None:
    written = _written_elsewhere(key, plaintext)
    assert _read(served, written, key.key_id) == plaintext
    old = served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=written))
    assert old.plain == plaintext


def test_members_in_another_order_are_read_too(served: Kmsd) -> None:
    """The header is authenticated as received, not as kmsd would have written it."""
    key = OctKey.import_key(WRITE.value)
    header = {"enc": "A256GCM", "typ": "JOSE", "kid": WRITE.key_id, "alg": "dir"}
    registry = jwe.JWERegistry(algorithms=["dir", "A256GCM"])
    written = jwe.encrypt_compact(header, SEED, key, registry=registry).encode()
    assert _read(served, written, WRITE.key_id) == SEED


def test_a_request_whose_key_id_is_not_the_kid_is_refused(served: Kmsd) -> None:
    for key_id in (AES128.key_id, WRITE.key_id.upper() + " ", "nonsense"):
        refused = refusal(_read, served, _write(served, SEED), key_id)
        assert refused.code == "INVALID_ARGUMENT"
        assert "key_id and the ciphertext name different keys" in refused.details


def test_the_key_id_of_a_request_is_the_same_key_in_every_spelling(served: Kmsd) -> None:
    written = _write(served, SEED)
    spelled = WRITE.key_id.encode().hex()
    for key_id in (WRITE.key_id, spelled, spelled.upper(), f"0x{spelled}"):
        assert _read(served, written, key_id) == SEED


def test_another_keys_ciphertext_under_a_swapped_kid_does_not_authenticate(served: Kmsd) -> None:
    forged = _written_elsewhere(KnownKey("", WRITE.key_id, bytes(32)), SEED)
    refused = refusal(_read, served, forged, WRITE.key_id)
    assert refused.code == "INVALID_ARGUMENT"
    assert "does not authenticate" in refused.details


def test_an_enc_that_is_not_its_keys_is_refused(served: Kmsd) -> None:
    """A256GCM is what k8s-kms-plugin says of AES-128 keys too; with 12 bytes of IV it is not k8s-kms-plugin's."""
    head = base64.urlsafe_b64encode(b'{"alg":"dir","kid":"%b","enc":"A256GCM"}' % AES128.key_id.encode()).rstrip(b"=")
    forged = b".".join([head, *_written_elsewhere(AES128, SEED).split(b".")[1:]])
    refused = refusal(_read, served, forged, AES128.key_id)
    assert refused.code == "INVALID_ARGUMENT"
    assert "does not fit its key, which is AES-128" in refused.details


def test_a_key_made_by_another_program_is_found_when_its_data_arrives(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    """No restart, and no waiting for a refresh that is an hour away."""
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "3600"}).wait_ok()
    written = _written_elsewhere(AES192, SEED)
    refused = refusal(_read, kmsd, written, AES192.key_id)
    assert refused.code == "NOT_FOUND"
    assert AES192.key_id in refused.details
    assert "restore the key" in refused.details
    token.objects(AES192.step)
    assert _read(kmsd, written, AES192.key_id) == SEED


def test_ids_that_are_no_text_serve_in_hex(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    """pkcs11-tool and many token vendors give binary CKA_IDs."""
    token.import_aes("k8s-kek", WRITE.value, b"\x01\x02\xfe\xff")
    kmsd = start_kmsd().wait_ok()
    assert kmsd.v2("Status").key_id == "0x0102feff"
    written = _write(kmsd, SEED)
    assert _read_elsewhere(KnownKey("", "0x0102feff", WRITE.value), written) == SEED
    assert _read(kmsd, written, "0x0102feff") == SEED


def test_an_older_write_key_goes_on_reading(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.objects(WRITE.step)
    kmsd = start_kmsd().wait_ok()
    before = _write(kmsd, SEED)
    token.relabel("k8s-kek", "k8s-kek@20260131T000000Z")
    new = kmsd.keygen()
    assert kmsd.v2("Status").key_id == new.key_id
    assert _read(kmsd, before, WRITE.key_id) == SEED
    states = {key.key_id: key.state for key in kmsd.admin("ListKeys").keys}
    assert states == {WRITE.key_id: admin.KEY_STATE_READABLE, new.key_id: admin.KEY_STATE_WRITE}
