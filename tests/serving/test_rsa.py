"""RSA keys: only those that are meant, only where that is asked for, never in another key's place."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwe as jose
from joserfc.jwk import RSAKey

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.formats import jwe, k8s_kms_plugin
from tests import opencryptoki
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt, keys
from tests.rpc.refusals import refusal
from tests.serving.conftest import ENVIRONMENT, Served, opencryptoki_rsa
from tests.tokens import SoftToken
from tests.tpm import make_tpm

REGISTRY = jose.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = opencryptoki_rsa(tmp_path_factory.mktemp("t") / "token")
    yield made
    made.token.stop()


@pytest.fixture(scope="module")
def kmsd(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    with served.start(tmp_path_factory.mktemp("d"), "--auto-create") as running:
        yield running.wait_ok(60.0)  # how long an RSA key takes is a matter of luck


def make(kmsd: Kmsd, label: str, kind: admin.KeyType, bits: int = 0) -> admin.Key:
    request = admin.GenerateKeyRequest(label=label, type=kind, bits=bits)
    made: admin.Key = kmsd.admin("GenerateKey", request, timeout=60.0).key
    return made


def _make_beside_others(kmsd: Kmsd, label: str) -> None:
    """Make a key while another program may be changing the token: SoftHSM fails now and then, and the answer is to be
    asked for again."""
    for left in (2, 1, 0):
        try:
            make(kmsd, label, admin.KEY_TYPE_RSA, 2048)
        except grpc.RpcError as error:
            code: Any = getattr(error, "code", lambda: None)()
            if code is not grpc.StatusCode.UNAVAILABLE or not left:
                raise
        else:
            return


@dataclass(frozen=True)
class Half:
    """One object of a key pair on the token."""

    private: bool
    label: str
    modulus: int


_HALVES = """
import json, sys, pkcs11
from pkcs11 import Attribute, ObjectClass
job = json.load(sys.stdin)
with pkcs11.lib(job["module"]).get_token(token_label=job["token"]).open(user_pin=job["pin"]) as session:
    found = session.get_objects({Attribute.ID: job["id"].encode()})
    print(json.dumps([
        [each.object_class == ObjectClass.PRIVATE_KEY, each[Attribute.LABEL], each[Attribute.MODULUS].hex()]
        for each in found
    ]))
"""


def halves(served: Served, key_id: str) -> list[Half]:
    """As another program sees them."""
    job = {"module": served.token.module, "token": served.token.label, "pin": opencryptoki.PIN, "id": key_id}
    done = subprocess.run(
        [*served.enter, sys.executable, "-c", _HALVES],
        input=json.dumps(job),
        env=served.token.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Half(private, label, int(modulus, 16)) for private, label, modulus in json.loads(done.stdout)]


def public_key(served: Served, key_id: str) -> rsa.RSAPublicKey:
    (half,) = (each for each in halves(served, key_id) if not each.private)
    return rsa.RSAPublicNumbers(65537, half.modulus).public_key()


def forged(key: rsa.RSAPublicKey, kid: str) -> bytes:
    """What anybody who knows a public key can write."""
    n = key.public_numbers()
    size = (n.n.bit_length() + 7) // 8
    jwk: dict[str, str | list[str]] = {
        "kty": "RSA",
        "n": base64.urlsafe_b64encode(n.n.to_bytes(size)).rstrip(b"=").decode(),
        "e": base64.urlsafe_b64encode(n.e.to_bytes(3)).rstrip(b"=").decode(),
    }
    header = {"alg": "RSA-OAEP-256", "kid": kid, "enc": "A256GCM"}
    return jose.encrypt_compact(header, b"forged", RSAKey.import_key(jwk), registry=REGISTRY).encode()


def test_what_is_written_is_standard_jose_and_the_key_is_named_as_what_it_is(kmsd: Kmsd) -> None:
    sealed = encrypt(kmsd, b"seed")
    parsed = jwe.parse(sealed.ciphertext)
    assert (parsed.alg, parsed.enc, parsed.kid) == ("RSA-OAEP-256", "A256GCM", sealed.key_id)
    write = kmsd.status().write_key
    assert (write.type, write.bits, write.enc) == (admin.KEY_TYPE_RSA, 3072, "A256GCM")
    assert (write.sensitive, write.extractable, write.private) == (True, False, True)
    assert len(sealed.ciphertext) < 1024


def test_start_warns_of_what_rsa_does_not_give(kmsd: Kmsd) -> None:
    (line,) = (each for each in kmsd.log_lines() if "RSA" in each["event"])
    assert line["level"] == "warning"
    assert "whoever knows the public key" in line["event"]


def test_an_rsa_key_of_another_label_opens_nothing(kmsd: Kmsd, served: Served) -> None:
    """Somebody else's key on the same HSM: its public key is known to many, and etcd may name it."""
    other = make(kmsd, "tls-server", admin.KEY_TYPE_RSA, 2048)
    assert other.state == admin.KEY_STATE_UNUSABLE
    assert "only those labelled 'k8s-kek' serve" in other.unusable_reason
    values = public_key(served, other.key_id)
    request = v2.DecryptRequest(ciphertext=forged(values, other.key_id), key_id=other.key_id, uid="u")
    refused = refusal(kmsd.v2, "Decrypt", request)
    assert refused.code == "FAILED_PRECONDITION"
    assert "only those labelled 'k8s-kek' serve" in refused.details
    destroy = refusal(kmsd.admin, "DestroyKey", admin.DestroyKeyRequest(key="tls-server"))
    assert "something else may need it" in destroy.details
    kmsd.admin("DestroyKey", admin.DestroyKeyRequest(key="tls-server", confirm_label="tls-server"))
    assert not halves(served, other.key_id), "its public half went with it"


def test_what_was_written_for_a_key_of_one_sort_is_not_opened_with_another(kmsd: Kmsd, served: Served) -> None:
    aes = make(kmsd, "aes-kek", admin.KEY_TYPE_PAIR)
    own = public_key(served, kmsd.status().write_key.key_id)
    request = v2.DecryptRequest(ciphertext=forged(own, aes.key_id), key_id=aes.key_id, uid="u")
    refused = refusal(kmsd.v2, "Decrypt", request)
    assert (refused.code, "does not fit its key" in refused.details) == ("INVALID_ARGUMENT", True)
    sealed = encrypt(kmsd, b"seed")
    parts = sealed.ciphertext.split(b".")
    head = jwe.header(sealed.key_id, "A256GCM")
    direct = b".".join([head, b"", *parts[2:]])
    refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=direct, key_id=sealed.key_id, uid="u"))
    assert (refused.code, "names an RSA key" in refused.details) == ("INVALID_ARGUMENT", True)
    assert decrypt(kmsd, sealed) == b"seed"


def test_foreign_formats_that_name_an_rsa_key_are_refused(kmsd: Kmsd) -> None:
    key = kmsd.status().write_key
    gcm = b".".join([k8s_kms_plugin.header(key.label), b"", *(jwe.encode(bytes(size)) for size in (16, 32, 16))])
    length = jwe.encode((5).to_bytes(8)).decode()
    members = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "kid": key.key_id.encode().hex(), "_thales_aad": length}
    head = jwe.encode(json.dumps({**members, "enc": "A256CBC"}).encode())
    cbc = b".".join([head, b"", *(jwe.encode(bytes(size)) for size in (16, 16, 32))])
    for ciphertext in (gcm, cbc):
        refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=ciphertext, key_id=key.key_id, uid="u"))
        assert refused.code == "INVALID_ARGUMENT"
        assert "names an RSA key" in refused.details
    assert kmsd.v2("Status").healthz == "ok"


def test_both_halves_are_renamed_in_a_rotation(kmsd: Kmsd, served: Served) -> None:
    before = kmsd.status().write_key.key_id
    kmsd.admin("RotateKey", admin.RotateKeyRequest(), timeout=60.0)
    (old,) = (key for key in keys(kmsd) if key.key_id == before)
    assert old.label.startswith("k8s-kek@")
    assert old.state == admin.KEY_STATE_READABLE
    assert [each.label for each in halves(served, before)] == [old.label, old.label]


def test_an_rsa_key_loses_its_role_only_confirmed(kmsd: Kmsd) -> None:
    sealed = encrypt(kmsd, b"seed")
    kmsd.admin("RotateKey", admin.RotateKeyRequest(), timeout=60.0)
    (old,) = (key for key in keys(kmsd) if key.key_id == sealed.key_id)
    refused = refusal(kmsd.admin, "RelabelKey", admin.RelabelKeyRequest(key=old.key_id, label="archive"))
    assert "reads only under a label of 'k8s-kek'" in refused.details
    assert decrypt(kmsd, sealed) == b"seed"
    make(kmsd, "card", admin.KEY_TYPE_RSA, 2048)
    refused = refusal(kmsd.admin, "RelabelKey", admin.RelabelKeyRequest(key="card", label="mine"))
    assert "something else may need it" in refused.details


def test_no_rsa_key_takes_the_writing_from_an_aes_key_unasked(kmsd: Kmsd) -> None:
    make(kmsd, "two-sorts", admin.KEY_TYPE_PAIR)
    for if_not_exists in (False, True):
        request = admin.GenerateKeyRequest(label="two-sorts", type=admin.KEY_TYPE_RSA, if_not_exists=if_not_exists)
        assert refusal(kmsd.admin, "GenerateKey", request).code == "ALREADY_EXISTS"


def test_nothing_is_written_for_a_key_that_is_gone(kmsd: Kmsd, served: Served) -> None:
    """The public half is in memory; the private one is asked for each time."""
    encrypt(kmsd, b"seed")
    write = kmsd.status().write_key.key_id
    served.token.destroy("k8s-kek")
    with pytest.raises(grpc.RpcError):
        encrypt(kmsd, b"seed")
    _make_beside_others(kmsd, "k8s-kek")
    wait_for(lambda: kmsd.v2("Status").key_id not in ("", write))
    kmsd.wait_ok()
    assert encrypt(kmsd, b"seed").key_id != write


def test_without_being_asked_for_no_rsa_key_serves(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    refused = refusal(kmsd.admin, "GenerateKey", admin.GenerateKeyRequest(label="r", type=admin.KEY_TYPE_RSA))
    assert refused.code == "FAILED_PRECONDITION"
    assert "set keys.algorithm (--algorithm) to rsa-oaep" in refused.hint


def test_softhsm_has_no_oaep_with_sha256_and_says_so(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--algorithm=rsa-oaep", "--auto-create")
    said = wait_for(lambda: "SHA-256" in kmsd.v2("Status").healthz and kmsd.v2("Status").healthz)
    assert "its token does not decrypt RSA-OAEP with SHA-256" in said
    with pytest.raises(grpc.RpcError):
        encrypt(kmsd, b"seed")


def test_a_tpm_serves_and_rotates_with_rsa(tmp_path_factory: pytest.TempPathFactory) -> None:
    token = make_tpm(tmp_path_factory.mktemp("t") / "tpm", managed=True)
    folder: Path = tmp_path_factory.mktemp("d")
    environment = {**ENVIRONMENT, "KMSD_KMS__REQUEST_TIMEOUT": "60"}
    flags = (*token.flags, "--algorithm=rsa-oaep", "--auto-create")
    try:
        with Kmsd(folder, token, flags, environment=environment, default_flags=False).start() as kmsd:
            kmsd.wait_ok(60.0)
            before = encrypt(kmsd, b"before")
            assert kmsd.status().write_key.bits == 2048
            kmsd.admin("RotateKey", admin.RotateKeyRequest(), timeout=60.0)
            after = encrypt(kmsd, b"after")
            assert after.key_id != before.key_id
            assert (decrypt(kmsd, before), decrypt(kmsd, after)) == (b"before", b"after")
            _damaged_values_do_not_take_the_token_down(kmsd, after)
    finally:
        token.stop()


def _damaged_values_do_not_take_the_token_down(kmsd: Kmsd, sealed: v2.EncryptResponse) -> None:
    """A TPM answers as it does when it has lost its keys; later than ten seconds after a login kmsd believes that."""
    time.sleep(11)
    downs = sum(line["event"] == "token is down" for line in kmsd.log_lines())
    parts = sealed.ciphertext.split(b".")
    parts[1] = parts[1][::-1]
    for _ in range(3):
        request = v2.DecryptRequest(ciphertext=b".".join(parts), key_id=sealed.key_id, uid="u")
        assert refusal(kmsd.v2, "Decrypt", request).code == "INVALID_ARGUMENT"
        assert decrypt(kmsd, sealed) == b"after"
    assert sum(line["event"] == "token is down" for line in kmsd.log_lines()) == downs
