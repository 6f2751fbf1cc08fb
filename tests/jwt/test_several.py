"""Several kmsds on one token: what one of them changes, the others sign and publish; and what a restart keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import apiserver, claims, settings
from tests.jwt.test_signing import PRIVATE, PUBLIC, keys_of, kid_of, publish, refused, signing, switch
from tests.raw import unary
from tests.tokens import make_token


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kmsd, Kmsd]]:
    folder = tmp_path_factory.mktemp("two")
    token = make_token(folder)
    made = []
    for name in "ab":
        (folder / name).mkdir()
        made.append(Kmsd(folder / name, token, environment=settings(folder / name)).start(wait=False))
    one, other = (wait_started(each) for each in made)
    with one, other:
        yield one, other


def wait_started(kmsd: Kmsd) -> Kmsd:
    wait_for(kmsd._answers)
    return kmsd


def kids(kmsd: Kmsd) -> set[str]:
    return {key.key_id for key in apiserver(kmsd).fetch().keys}


def test_what_one_changes_the_other_signs_and_publishes_and_a_restart_keeps(two: tuple[Kmsd, Kmsd]) -> None:
    one, other = two
    # What signs today, a key file, moves into the token: no token that is out is refused.
    file = rsa.generate_private_key(65537, 2048)
    assert refused(apiserver(other).call, "FetchKeys", pb.FetchKeysRequest())[0] == "FAILED_PRECONDITION"
    first = one.admin("ImportJwtKey", admin.ImportJwtKeyRequest(private_key=file.private_bytes(*PRIVATE))).key
    assert (first.kid, first.state) == (kid_of(file.public_key()), "signing")
    wait_for(lambda: other.admin("GetJwt").state == "ready")
    assert kids(other) == {first.kid}
    request = admin.ImportJwtKeyRequest(private_key=file_of(2048), dry_run=True)
    assert refused(other.admin, "ImportJwtKey", request)[0] == "FAILED_PRECONDITION"

    # A rotation that one begins, the other finishes.
    second = publish(one, "ec-p256")
    wait_for(lambda: kids(other) == {first.kid, second})
    assert signing(other) == first.kid
    assert switch(other, second).previous.kid == first.kid
    wait_for(lambda: signing(one) == second)
    token = apiserver(one).token()
    assert apiserver(other).verify(token)
    assert [key.state for key in one.admin("GetJwt").keys] == ["signing", "verifying"]

    # What is trusted is one kmsd's own.
    trusted = rsa.generate_private_key(65537, 2048).public_key()
    one.admin("TrustJwtKey", admin.TrustJwtKeyRequest(public_keys=trusted.public_bytes(*PUBLIC)))
    assert kids(one) == {first.kid, second, kid_of(trusted)}
    assert kids(other) == {first.kid, second}

    # After a restart without the token the keys are answered at once, at the same time, and nothing is signed.
    stamp = apiserver(one).fetch().data_timestamp
    with one.soft.away():
        assert one.stop() == 0
        one.start()
        answer = apiserver(one).fetch()
        assert {key.key_id for key in answer.keys} == {first.kid, second, kid_of(trusted)}
        assert answer.data_timestamp == stamp
        assert apiserver(one).verify(token)
        assert refused(apiserver(one).call, "Sign", pb.SignJWTRequest(claims=claims()))[0] == "UNAVAILABLE"
    wait_for(lambda: one.admin("GetJwt").state == "ready")
    assert apiserver(one).fetch().data_timestamp == stamp

    # A key that is destroyed by another program stays published, and is told of, until somebody retires it.
    (old,) = keys_of(one, "verifying")
    one.soft.destroy(old.label)
    wait_for(lambda: any("is gone from token" in each.message for each in one.status().problems))
    assert first.kid in kids(one)
    assert refused(one.admin, "RetireJwtKey", admin.RetireJwtKeyRequest(kid=first.kid))[0] == "FAILED_PRECONDITION"
    one.admin("RetireJwtKey", admin.RetireJwtKeyRequest(kid=first.kid, confirm_kid=first.kid))
    assert first.kid not in kids(one)


def file_of(bits: int) -> bytes:
    return rsa.generate_private_key(65537, bits).private_bytes(*PRIVATE)


def test_a_switch_that_dies_between_two_labels_is_finished(two: tuple[Kmsd, Kmsd]) -> None:
    one, other = two
    before, new = signing(one), publish(one, "ec-p256")
    (waiting,) = keys_of(one, "pending")
    # As if it had died after the first of two labels: both have the label, and the newest signs.
    one.soft.relabel(waiting.label, "sa-signer")
    wait_for(lambda: signing(one) == signing(other) == new)
    assert before in kids(one)
    # The second label is moved by whoever sees it.
    wait_for(lambda: all(key.stopped_unix_ms for key in keys_of(one, "verifying")))
    publish(one, "ec-p256")
    (waiting,) = keys_of(one, "pending")
    switch(other, waiting.kid)
    wait_for(lambda: signing(one) == waiting.kid)
    assert all(key.stopped_unix_ms for key in keys_of(one, "verifying")), "a label was left behind"


def test_a_batch_of_pods_gets_its_tokens(two: tuple[Kmsd, Kmsd]) -> None:
    caller = apiserver(two[0])
    call = unary(caller.channel, "/v1.ExternalJWTSigner/Sign")
    body = pb.SignJWTRequest(claims=claims()).SerializeToString()
    began = time.monotonic()
    asked = [call.future(body, timeout=30) for _ in range(1000)]
    answers = {pb.SignJWTResponse.FromString(each.result()).signature for each in asked}
    assert all(answers)
    assert time.monotonic() - began < 15
