"""Service account tokens signed by tokens of other makes, and by one that misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from tests import opencryptoki, p11kit, tpm
from tests.chaos import make_chaos
from tests.daemons import KMSD, Kmsd, wait_for
from tests.jwt.signing import Apiserver, apiserver, claims, openssl_verify, settings
from tests.jwt.test_signing import PRIVATE, keys_of, refused

IMPORT = admin.ImportJwtKeyRequest(
    private_key=ec.generate_private_key(ec.SECP256R1()).private_bytes(*PRIVATE), pending=True
)


@contextmanager
def signer(folder: Path, token: Any, type_: Any, bits: int) -> Iterator[Kmsd]:
    folder.mkdir()
    command = (*getattr(token, "enter", ()), KMSD, "serve")
    flags, environment = token.flags, settings(folder)
    with Kmsd(folder, token, flags, environment, default_flags=False, command=command).start() as kmsd:
        wait_for(lambda: kmsd.status().token.label)
        request = admin.GenerateKeyRequest(label="sa-signer", type=type_, bits=bits, purpose="jwt")
        kmsd.admin("GenerateKey", request, timeout=60)
        wait_for(lambda: kmsd.admin("GetJwt").state == "ready")
        yield kmsd


def make_tpm(folder: Path) -> Any:
    return tpm.make_tpm(folder, managed=True)


@pytest.mark.parametrize(
    ("make", "type_", "bits", "takes_in"),
    [
        (make_tpm, admin.KEY_TYPE_EC, 256, False),
        (opencryptoki.make_opencryptoki, admin.KEY_TYPE_RSA, 2048, None),
        (p11kit.make_p11kit, admin.KEY_TYPE_EC, 256, True),
    ],
    ids=["tpm", "opencryptoki", "p11-kit"],
)
def test_other_tokens_sign_and_openssl_takes_it(
    short_tmp: Path,
    tmp_path: Path,
    make: Callable[[Path], Any],
    type_: Any,
    bits: int,
    takes_in: bool | None,
) -> None:
    token = make(short_tmp / "t")
    try:
        with signer(short_tmp / "k", token, type_, bits) as kmsd:
            caller = apiserver(kmsd)
            signed = caller.token()
            assert caller.verify(signed)
            openssl_verify(tmp_path, signed, keys_of(kmsd, "signing")[0].pem)
            if takes_in:
                assert kmsd.admin("ImportJwtKey", IMPORT).imported
            elif takes_in is False:
                assert refused(kmsd.admin, "ImportJwtKey", IMPORT)[0] == "FAILED_PRECONDITION"
    finally:
        token.stop()


def test_a_token_that_misbehaves_hands_out_nothing_wrong_and_takes_in_what_it_can(short_tmp: Path) -> None:
    chaos = make_chaos(short_tmp / "t")
    with signer(short_tmp / "k", chaos, admin.KEY_TYPE_EC, 256) as kmsd:
        caller = apiserver(kmsd)
        with chaos.told("C_Sign flip"):
            code, words = refused(caller.call, "Sign", pb.SignJWTRequest(claims=claims()))
            assert code == "UNAVAILABLE"
            assert "does not fit the public key" in words
        assert caller.verify(caller.token())
        with chaos.told("C_UnwrapKey rv=0x70", "C_CreateObject rv=0x54"):
            code, words = refused(kmsd.admin, "ImportJwtKey", IMPORT)
            assert code == "FAILED_PRECONDITION"
            assert "the private key was not taken in: token" in words
        with chaos.told("C_UnwrapKey rv=0x70"):
            answer = kmsd.admin("ImportJwtKey", IMPORT)
            assert (answer.imported, answer.wrapped, answer.key.proven) == (True, False, True)


@pytest.mark.parametrize("label", ["sa-signer", "another"])
def test_of_two_keys_with_one_id_neither_signs_and_what_is_published_stays(short_tmp: Path, label: str) -> None:
    chaos = make_chaos(short_tmp / "t")
    with signer(short_tmp / "d", chaos, admin.KEY_TYPE_EC, 256) as kmsd:
        caller = apiserver(kmsd)
        token = caller.token()
        (own,) = keys_of(kmsd, "signing")
        number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32).hex()
        twin = {"do": "import", "type": "ec", "label": label, "value": number, "id": own.key_id.encode().hex()}
        chaos.behind.objects(twin)
        code, words = wait_for(lambda: _refusal(caller))
        assert code == "FAILED_PRECONDITION"
        assert "have this key id" in words or "have the same CKA_ID" in words
        wait_for(lambda: [each for each in kmsd.status().problems if "2 keys have this key id" in each.message])
        assert kmsd.admin("GetJwt").state != "ready"
        assert {each.key_id for each in caller.fetch().keys} == {own.kid}
        assert caller.verify(token)
        if label == "another":
            chaos.behind.destroy(label)
            wait_for(lambda: _refusal(caller) is None)


def _refusal(caller: Apiserver) -> tuple[str, str] | None:
    try:
        assert caller.verify(caller.token())
    except grpc.RpcError as error:
        call: Any = error
        return call.code().name, call.details()
    return None
