"""A kmsd that signs service account tokens, as kube-apiserver and an operator find it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from kmsd.client import InvalidRequest, signer_connect
from tests.admin.calls import stats
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import ISSUER, SUBJECT, Apiserver, apiserver, b64, claims, openssl_verify, settings, socket_of
from tests.raw import stream, unary
from tests.tokens import make_token

PRIVATE = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
PUBLIC = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture(scope="module")
def kmsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    folder = tmp_path_factory.mktemp("jwt")
    environment = settings(folder, issuers=ISSUER, max_token_expiration="7200") | {"KMSD_AUDIT__KMS": "all"}
    with Kmsd(folder, make_token(folder), environment=environment).start() as kmsd:
        request = admin.GenerateKeyRequest(label="sa-signer", type=admin.KEY_TYPE_EC, purpose="jwt")
        assert kmsd.admin("GenerateKey", request).key.purpose == "jwt"
        wait_for(lambda: kmsd.admin("GetJwt").state == "ready")
        yield kmsd


@pytest.fixture
def caller(kmsd: Kmsd) -> Apiserver:
    return apiserver(kmsd)


def keys_of(kmsd: Kmsd, *states: str) -> list[admin.JwtKey]:
    return [each for each in kmsd.admin("GetJwt").keys if each.state in states]


def signing(kmsd: Kmsd) -> str:
    (key,) = keys_of(kmsd, "signing")
    return str(key.kid)


def publish(kmsd: Kmsd, type_: str = "") -> str:
    return str(kmsd.admin("PublishJwtKey", admin.PublishJwtKeyRequest(type=type_), timeout=30).key.kid)


def switch(kmsd: Kmsd, kid: str, *, force: bool = True) -> Any:
    return kmsd.admin("SwitchJwtKey", admin.SwitchJwtKeyRequest(kid=kid, force=force))


def refused(call: Any, *args: Any) -> tuple[str, str]:
    """The code and the words with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)
    error: Any = caught.value
    return error.code().name, error.details()


def test_a_token_is_signed_and_verifies_with_what_is_published(kmsd: Kmsd, caller: Apiserver) -> None:
    answer = caller.fetch()
    assert [key.key_id for key in answer.keys] == [signing(kmsd)]
    assert caller.verify(caller.token())["sub"] == SUBJECT
    assert caller.call("Metadata", pb.MetadataRequest()).max_token_expiration_seconds == 7200
    (seen,) = kmsd.admin("GetJwt").fetchers
    assert seen.current
    assert f"pid={os.getpid()}" in seen.who


def test_what_an_operator_asks_is_taken_for_no_kube_apiserver(kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    before = kmsd.admin("GetJwt").fetchers
    with signer_connect(str(socket_of(kmsd))) as signer:
        assert signer.kids() == tuple(caller.known)
        assert signer.longest() == 7200
    assert kmsd.admin("GetJwt").fetchers == before
    for other in (kmsd.socket, kmsd.admin_socket):
        with signer_connect(str(other)) as stranger, pytest.raises(InvalidRequest, match="the socket of another API"):
            stranger.kids()


@pytest.mark.parametrize("type_", ["rsa-2048", "ec-p384", "ec-p521", "ec-p256"])
def test_every_algorithm_verifies_with_joserfc_and_openssl(
    kmsd: Kmsd, caller: Apiserver, type_: str, tmp_path: Path
) -> None:
    switch(kmsd, publish(kmsd, type_))
    caller.fetch()
    token = caller.token()
    assert caller.verify(token)["iss"] == ISSUER
    (key,) = keys_of(kmsd, "signing")
    assert key.alg == {"rsa-2048": "RS256", "ec-p384": "ES384", "ec-p521": "ES512", "ec-p256": "ES256"}[type_]
    openssl_verify(tmp_path, token, key.pem)
    assert json.loads(key.jwk)["kid"] == key.kid


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "INVALID_ARGUMENT", "0 characters"),
        ("e30=", "INVALID_ARGUMENT", "no base64url"),
        ("!!", "INVALID_ARGUMENT", "no base64url"),
        (b64(b"[]"), "INVALID_ARGUMENT", "no JSON object"),
        (b64(b"{"), "INVALID_ARGUMENT", "no JSON"),
        (claims(iss="https://evil.test"), "INVALID_ARGUMENT", "'https://evil.test' is none"),
        (claims(sub="system:admin"), "INVALID_ARGUMENT", "no service account"),
        (claims(exp=int(time.time()) + 90_000), "INVALID_ARGUMENT", "1 to 7200 s are allowed"),
        (claims(x="y" * 20_000), "INVALID_ARGUMENT", "16384 are allowed"),
        ("A" * 1024 * 1024, "RESOURCE_EXHAUSTED", "bytes"),
    ],
    ids=["empty", "padded", "other", "list", "cut", "issuer", "subject", "long", "large", "huge"],
)
def test_what_is_no_token_of_this_issuer_is_not_signed(caller: Apiserver, text: str, code: str, words: str) -> None:
    got = refused(caller.call, "Sign", pb.SignJWTRequest(claims=text))
    assert got[0] == code
    assert words in got[1]


def test_a_rotation_waits_for_those_who_fetch_the_keys_and_fails_no_token(kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    old, tokens, stop = signing(kmsd), [caller.token()], threading.Event()

    def load() -> None:
        beside = apiserver(kmsd)
        while not stop.is_set():
            tokens.append(beside.token())

    thread = threading.Thread(target=load)
    thread.start()
    try:
        new = publish(kmsd)
        assert publish(kmsd) == new, "a step that is repeated does nothing"
        code, words = refused(lambda: switch(kmsd, new, force=False))
        assert code == "FAILED_PRECONDITION"
        assert "have not fetched" in words
        caller.fetch()
        assert new in caller.known
        wait_for(lambda: _may_switch(kmsd, new))
        answer = switch(kmsd, new, force=False)
        assert (answer.key.kid, answer.previous.kid, answer.switched) == (new, old, True)
        assert not switch(kmsd, new, force=False).switched
        tokens.append(caller.token())
    finally:
        stop.set()
        thread.join()
    for each in tokens:
        assert caller.verify(each)
    kids = {json.loads(b64decode(each.split(".")[0]))["kid"] for each in tokens}
    assert kids == {old, new}
    stopped = next(each for each in keys_of(kmsd, "verifying") if each.kid == old)
    assert stopped.published
    assert stopped.needed_until_unix_ms - stopped.stopped_unix_ms >= 7200_000
    code, words = refused(kmsd.admin, "RetireJwtKey", admin.RetireJwtKeyRequest(kid=old))
    assert code == "FAILED_PRECONDITION"
    assert "may be in force until" in words
    before = caller.fetch()
    kmsd.admin("RetireJwtKey", admin.RetireJwtKeyRequest(kid=old, confirm_kid=old))
    after = caller.fetch()
    assert old not in {key.key_id for key in after.keys}
    # Only a key that is retired is destroyed without further ado.
    retired = next(key for key in keys_of(kmsd, "retired") if key.key_id == stopped.key_id)
    (signs,) = keys_of(kmsd, "signing")
    destroy = admin.DestroyKeyRequest(key=signs.key_id)
    assert refused(kmsd.admin, "DestroyKey", destroy)[0] == "FAILED_PRECONDITION"
    assert kmsd.admin("DestroyKey", admin.DestroyKeyRequest(key=retired.key_id)).destroyed
    assert after.data_timestamp.ToNanoseconds() > before.data_timestamp.ToNanoseconds()
    assert refused(kmsd.admin, "RetireJwtKey", admin.RetireJwtKeyRequest(kid=new))[0] == "FAILED_PRECONDITION"


def _may_switch(kmsd: Kmsd, kid: str) -> bool:
    try:
        kmsd.admin("SwitchJwtKey", admin.SwitchJwtKeyRequest(kid=kid, dry_run=True))
    except grpc.RpcError:
        return False
    return True


def b64decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_key_file_is_imported_and_keeps_its_kid(kmsd: Kmsd, caller: Apiserver) -> None:
    file = rsa.generate_private_key(65537, 2048)
    request = admin.ImportJwtKeyRequest(private_key=file.private_bytes(*PRIVATE), pending=True)
    answer = kmsd.admin("ImportJwtKey", request)
    assert answer.imported
    assert answer.wrapped
    assert answer.key.from_outside
    assert answer.key.kid == kid_of(file.public_key())
    assert not kmsd.admin("ImportJwtKey", request).imported
    switch(kmsd, answer.key.kid)
    caller.fetch()
    assert caller.verify(caller.token())
    (shown,) = [each for each in kmsd.admin("ListKeys").keys if each.key_id == answer.key.key_id]
    assert (shown.sensitive, shown.extractable, shown.local, shown.never_extractable) == (True, False, False, False)
    elliptic = ec.generate_private_key(ec.SECP256R1()).private_bytes(*PRIVATE)
    second = kmsd.admin("ImportJwtKey", admin.ImportJwtKeyRequest(private_key=elliptic, pending=True)).key
    assert (second.alg, second.proven) == ("ES256", True)
    kmsd.admin("RetireJwtKey", admin.RetireJwtKeyRequest(kid=second.kid))


def kid_of(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """The kid by kube-apiserver's keyIDFromPublicKey, by hand."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b64(hashlib.sha256(der).digest())


def test_a_key_from_outside_verifies_until_it_is_trusted_no_more(kmsd: Kmsd, caller: Apiserver) -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem, kid = public.public_bytes(*PUBLIC), kid_of(public)
    request = admin.TrustJwtKeyRequest(public_keys=pem, exclude_from_discovery=True, note="the old key file")
    assert kmsd.admin("TrustJwtKey", request).added == 1
    assert kmsd.admin("TrustJwtKey", request).added == 0
    caller.fetch()
    assert caller.known[kid].exclude_from_oidc_discovery
    untrust = admin.UntrustJwtKeyRequest(kid=kid)
    assert refused(kmsd.admin, "UntrustJwtKey", untrust)[0] == "FAILED_PRECONDITION"
    kmsd.admin("UntrustJwtKey", admin.UntrustJwtKeyRequest(kid=kid, confirm_kid=kid))
    caller.fetch()
    assert kid not in caller.known
    small = rsa.generate_private_key(65537, 1024).public_key().public_bytes(*PUBLIC)  # noqa: S505 - it is refused
    code, words = refused(kmsd.admin, "TrustJwtKey", admin.TrustJwtKeyRequest(public_keys=small))
    assert code == "INVALID_ARGUMENT"
    assert "2048 to 8192 bits" in words


def test_a_public_key_that_somebody_planted_is_never_published(kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    before, mine = set(caller.known), ec.generate_private_key(ec.SECP256R1()).public_key()
    point = mine.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint).hex()
    (own,) = keys_of(kmsd, "signing")
    ids = own.key_id, "jwt.01a21a62-4c3b-7ecb-bcab-0de1336464f8"
    kmsd.soft.plant(
        *(
            {"do": "import", "type": "ec-public", "label": "sa-signer", "value": point, "id": i.encode().hex()}
            for i in ids
        )
    )
    kmsd.admin("ListKeys")
    time.sleep(1)
    caller.fetch()
    assert set(caller.known) == before
    assert caller.verify(caller.token())


def test_the_keys_are_answered_while_the_token_is_away(kmsd: Kmsd, caller: Apiserver) -> None:
    token, known = caller.token(), {key.key_id for key in caller.fetch().keys}
    with kmsd.soft.away():
        wait_for(lambda: not _signs(caller))
        began = time.monotonic()
        assert refused(caller.call, "Sign", pb.SignJWTRequest(claims=claims()), 3.0)[0] == "UNAVAILABLE"
        assert time.monotonic() - began < 3
        assert {key.key_id for key in caller.fetch().keys} == known
        assert caller.verify(token)
    wait_for(lambda: _signs(caller))


def _signs(caller: Apiserver) -> bool:
    try:
        caller.token()
    except grpc.RpcError:
        return False
    return True


def test_what_is_signed_is_counted_as_other_calls_are(kmsd: Kmsd, caller: Apiserver) -> None:
    caller.token()
    assert any((each.api, each.method, each.code) == ("jwt", "Sign", "OK") for each in stats(kmsd).calls)
    parts = stream(kmsd.channel(kmsd.admin_socket), "/kmsd.admin.v1.Admin/GetMetrics")(b"", timeout=10)
    text = b"".join(admin.GetMetricsResponse.FromString(each).text for each in parts).decode()
    assert 'kmsd_jwt_ready{tenant=""} 1' in text
    assert re.search(r'kmsd_jwt_published_keys\{tenant=""\} [1-9]', text)


def test_the_doctor_has_the_key_sign(kmsd: Kmsd) -> None:
    (check,) = [each for each in kmsd.admin("Diagnose", timeout=60).checks if each.name == "jwt_key"]
    assert (check.outcome, check.seen) == ("ok", f"signs {keys_of(kmsd, 'signing')[0].alg}, as its public key shows")


def test_a_token_that_hangs_costs_a_caller_its_deadline_and_no_more(kmsd: Kmsd, caller: Apiserver) -> None:
    with kmsd.soft.hanging():
        began = time.monotonic()
        assert refused(caller.call, "Sign", pb.SignJWTRequest(claims=claims()), 1.0)[0] == "DEADLINE_EXCEEDED"
        assert caller.call("FetchKeys", pb.FetchKeysRequest()).keys
        assert time.monotonic() - began < 4
    wait_for(lambda: _signs(caller))


def test_the_sockets_have_nothing_in_common(kmsd: Kmsd) -> None:
    jwt = kmsd.channel(socket_of(kmsd))
    for path in ("/v2.KeyManagementService/Status", "/kmsd.admin.v1.Admin/GetStatus"):
        assert refused(unary(jwt, path), b"")[0] == "UNIMPLEMENTED"
    assert refused(kmsd.raw, "/v1.ExternalJWTSigner/Metadata", b"")[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize("other", ["kms", "admin"])
def test_the_socket_of_another_api_is_refused(short_tmp: Path, other: str) -> None:
    # Its token is never looked at.
    wrong = Kmsd(short_tmp, make_token(short_tmp / "t"), ["--jwt-socket", str(short_tmp / other / f"{other}.sock")])
    process = wrong.start(wait=False).process
    assert process is not None
    assert process.wait(20) == 2
    assert "is that of another API" in wrong.log_text()


def test_a_record_names_the_key_and_hashes_and_never_the_token(kmsd: Kmsd, caller: Apiserver) -> None:
    token = caller.token()
    found = kmsd.folder / "state" / "audit-kms.jsonl"
    shown = f"kid {signing(kmsd)[:12]} sub sha256:"
    wait_for(lambda: shown in found.read_text())
    text = found.read_text() + (kmsd.folder / "state" / "audit.jsonl").read_text() + kmsd.log_text()
    for secret in (*token.split("."), SUBJECT, ISSUER + '"'):
        assert secret not in text
    record = next(json.loads(line) for line in found.read_text().splitlines() if shown in line)
    assert (record["action"], record["outcome"]) == ("jwt Sign", "OK")
    assert "uid=0" in record["caller"]
