"""Pairs of keys that cannot serve: each is named with what to do, and kmsd stays up until it is done."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.crypto import cbc_hmac
from kmsd.formats import jwe
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt
from tests.rotation.conftest import keys as listed
from tests.rpc.refusals import refusal
from tests.serving.conftest import ENVIRONMENT
from tests.tokens import SoftToken, make_token

AES = bytes(range(32))
MAC = bytes(range(100, 132))
PAIR = "make a pair under a free label: kmsctl keygen LABEL --type pair"
Step = dict[str, str]


def key(kind: str, label: str, cka_id: str = "", value: bytes = b"", **flags: str) -> Step:
    value = value or {"aes": AES, "hmac": MAC, "des3": bytes(range(24))}[kind]
    return {
        "do": "import",
        "type": kind,
        "label": label,
        "value": value.hex(),
        "id": cka_id.encode().hex(),
        **flags,
    }


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    return make_token(tmp_path_factory.mktemp("t") / "hsm")


@pytest.fixture(scope="module")
def running(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Looks for a pair by two labels, kek and mac, and changes nothing by itself."""
    flags = ("--algorithm=aes-cbc", "--p11-key-label=kek", "--p11-hmac-label=mac")
    environment = {**ENVIRONMENT, "KMSD_KEYS__ADOPT": "never"}
    with Kmsd(tmp_path_factory.mktemp("d"), token, flags, environment=environment).start() as kmsd:
        yield kmsd


@pytest.fixture
def kmsd(running: Kmsd, token: SoftToken) -> Iterator[Kmsd]:
    """On a token without keys; those that a test has put there are destroyed after it."""
    process = running.process
    yield running
    assert process is not None
    assert process.poll() is None
    labels = {found.label for found in running.admin("ListKeys").keys}
    token.objects(*({"do": "destroy", "label": label} for label in labels))
    assert not running.admin("ListKeys").keys


def good(token: SoftToken) -> None:
    token.objects(key("aes", "kek", "enc"), key("hmac", "mac", "auth"))


BAD = {
    "nothing": ([], "there is no key labelled 'kek'", "make one: kmsctl keygen kek --type pair"),
    "no HMAC key": ([key("aes", "kek", "enc")], "AES-CBC needs an HMAC key beside it, and there is none", PAIR),
    "no AES key": ([key("hmac", "mac", "auth")], "there is no key labelled 'kek'", "keygen kek --type pair"),
    "an AES key for the HMAC": (
        [key("aes", "kek", "enc"), key("aes", "mac", "auth", MAC)],
        "the key labelled 'mac' is no HMAC key but an AES key",
        "--p11-hmac-label",
    ),
    "a key of another type for the HMAC": (
        [key("aes", "kek", "enc"), key("des3", "mac", "auth")],
        "the key labelled 'mac' is no HMAC key but of another type",
        "--p11-hmac-label",
    ),
    "an HMAC key for the AES": (
        [key("hmac", "kek", "enc"), key("hmac", "mac", "auth")],
        "there is no key labelled 'kek'",
        "keygen kek --type pair",
    ),
    "CKA_SIGN missing": (
        [key("aes", "kek", "enc"), key("hmac", "mac", "auth", sign="no")],
        "CKA_SIGN is not set on the HMAC key labelled 'mac'",
        f"set it, or {PAIR}",
    ),
    "CKA_ENCRYPT missing": (
        [key("aes", "kek", "enc", encrypt="no"), key("hmac", "mac", "auth")],
        "CKA_ENCRYPT is not set, so it only reads",
        "set it",
    ),
    "an HMAC key without CKA_ID": (
        [key("aes", "kek", "enc"), key("hmac", "mac")],
        "the HMAC key labelled 'mac' has no CKA_ID",
        "kmsctl keys adopt mac",
    ),
    "two HMAC keys": (
        [key("aes", "kek", "enc"), key("hmac", "mac", "auth"), key("hmac", "mac", "other")],
        "there are 2 HMAC keys labelled 'mac'",
        "relabel or destroy all but one",
    ),
    "two HMAC keys of one id": (
        [key("aes", "kek", "enc"), key("hmac", "one", "enc"), key("hmac", "two", "enc")],
        "there are 2 HMAC keys with its CKA_ID, enc",
        "relabel or destroy all but one",
    ),
    "an HMAC key that is too short": (
        [key("aes", "kek", "enc"), key("hmac", "mac", "auth", MAC[:16])],
        "the HMAC key has 128 bits, AES-256 needs at least 256 beside it",
        "kmsctl keygen LABEL --type pair",
    ),
    "AES-192": (
        [key("aes", "kek", "enc", AES[:24]), key("hmac", "mac", "auth")],
        "there is no JWE encryption with AES-192 in CBC mode",
        "kmsctl keygen LABEL --type pair",
    ),
}


@pytest.mark.parametrize(("keys", "message", "hint"), BAD.values(), ids=list(BAD))
def test_a_bad_pair_is_named_with_its_fix(
    kmsd: Kmsd, token: SoftToken, keys: list[Step], message: str, hint: str
) -> None:
    token.objects(*keys)
    wait_for(lambda: message in kmsd.v2("Status").healthz)
    assert hint in kmsd.v2("Status").healthz
    fatal = [problem for problem in kmsd.status().problems if problem.fatal]
    assert len(fatal) == 1
    assert message in fatal[0].message
    assert hint in fatal[0].hint
    refused = refusal(kmsd.v2, "Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
    assert refused.code == "FAILED_PRECONDITION"
    assert message in refused.details


def test_the_fix_of_each_is_seen_without_a_restart(kmsd: Kmsd, token: SoftToken) -> None:
    token.objects(key("aes", "kek", "enc"), key("hmac", "mac"))
    wait_for(lambda: "has no CKA_ID" in kmsd.v2("Status").healthz)
    adopted = kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label="mac")).key
    assert adopted.type == admin.KEY_TYPE_HMAC
    kmsd.wait_ok()
    assert not kmsd.status().problems
    sealed = encrypt(kmsd, b"seed")
    assert jwe.parse(sealed.ciphertext).hkid == adopted.key_id
    assert decrypt(kmsd, sealed) == b"seed"


def test_an_hmac_key_that_goes_is_missed_and_welcomed_back(kmsd: Kmsd, token: SoftToken) -> None:
    good(token)
    sealed = encrypt(kmsd.wait_ok(), b"seed")
    token.destroy("mac")
    wait_for(lambda: "needs an HMAC key beside it" in kmsd.v2("Status").healthz)
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
    refused = refusal(kmsd.v2, "Decrypt", request)
    assert refused.code == "NOT_FOUND"
    assert "there is no HMAC key with key id 'auth'" in refused.details
    token.objects(key("hmac", "mac", "auth"))
    kmsd.wait_ok()
    assert decrypt(kmsd, sealed) == b"seed"


def written(mac: bytes, hkid: str) -> v2.DecryptRequest:
    """What somebody makes who knows an HMAC key on the token."""
    header = jwe.header("enc", "A256CBC-HS256", hkid=hkid)
    iv = bytes(16)
    encryptor = Cipher(algorithms.AES(AES), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(cbc_hmac.pad(b"seed")) + encryptor.finalize()
    tag = hmac.digest(mac, cbc_hmac.mac_input(header, iv, ciphertext), hashlib.sha256)
    return v2.DecryptRequest(ciphertext=jwe.assemble(header, iv, ciphertext + tag, 32), key_id="enc", uid="u")


def test_an_hmac_key_that_is_not_the_configured_one_authenticates_nothing(kmsd: Kmsd, token: SoftToken) -> None:
    """Its value may be known to whoever put it there."""
    good(token)
    theirs = bytes(range(200, 232))
    token.objects(key("hmac", "theirs", "known", theirs))
    kmsd.wait_ok()
    assert kmsd.v2("Decrypt", written(MAC, "auth")).plaintext == b"seed"
    refused = refusal(kmsd.v2, "Decrypt", written(theirs, "known"))
    assert refused.code == "NOT_FOUND"
    assert "'known'" in refused.details
    assert "--p11-hmac-label" in refused.details


def test_the_configured_hmac_key_is_neither_destroyed_nor_renamed_in_passing(kmsd: Kmsd, token: SoftToken) -> None:
    good(token)
    sealed = encrypt(kmsd.wait_ok(), b"seed")
    for method, request in (
        ("DestroyKey", admin.DestroyKeyRequest(key="mac")),
        ("RelabelKey", admin.RelabelKeyRequest(key="mac", label="old")),
    ):
        refused = refusal(kmsd.admin, method, request)
        assert refused.code == "FAILED_PRECONDITION"
        assert "is the HMAC key that --p11-hmac-label names" in refused.details
    assert decrypt(kmsd, sealed) == b"seed"


def test_it_stays_when_an_aes_key_with_its_id_goes(kmsd: Kmsd, token: SoftToken) -> None:
    """Other AES keys are authenticated by it, too."""
    good(token)
    token.objects(key("aes", "older", "auth"))
    sealed = encrypt(kmsd.wait_ok(), b"seed")
    assert jwe.parse(sealed.ciphertext).hkid == "auth"
    wait_for(lambda: any(each.label == "older" for each in listed(kmsd)))
    gone = kmsd.admin("DestroyKey", admin.DestroyKeyRequest(key="older", confirm_label="older"))
    assert gone.destroyed
    assert not gone.HasField("companion")
    assert decrypt(kmsd, sealed) == b"seed"


def test_what_two_labels_wrote_is_read_after_a_rotation_to_a_pair_of_one(kmsd: Kmsd, token: SoftToken) -> None:
    good(token)
    before = encrypt(kmsd.wait_ok(), b"before")
    assert jwe.parse(before.ciphertext).hkid == "auth"
    done = kmsd.admin("RotateKey", admin.RotateKeyRequest(), timeout=30.0)
    after = encrypt(kmsd, b"after")
    assert after.key_id == done.new_key.key_id
    assert jwe.parse(after.ciphertext).hkid == ""
    assert (decrypt(kmsd, before), decrypt(kmsd, after)) == (b"before", b"after")
    assert not kmsd.status().problems
