"""GetStatus and AdoptKey: what kmsd says of itself, and giving an identity to a key that has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from kmsd import __version__
from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, assert_told, encrypt, failure, fresh, key, keys, make, refused
from tests.admin.conftest import BARE, BINARY_ID
from tests.daemons import Kmsd, wait_for


def test_a_kmsd_that_serves_says_what_it_serves_with(served: Kmsd) -> None:
    status = served.status()
    assert served.token is not None
    assert (status.version, status.healthz, status.hint) == (__version__, "ok", "")
    assert (status.write_label, status.write_format) == ("k8s-kek", "native")
    assert status.write_key.key_id == served.v2("Status").key_id
    assert status.keys == len(keys(served))
    assert 0 < status.probe.round_trip_ms < 10_000
    assert 0 <= time.time() - status.probe.last_success_unix_ms / 1000 < 60
    assert {each.socket: list(each.apis) for each in status.listeners} == {
        str(served.socket): ["v2", "v1beta1"],
        str(served.admin_socket): ["admin"],
    }
    assert (status.token.label, status.token.up) == (served.token.label, True)
    assert (status.sessions.open, status.sessions.configured, status.sessions.stuck) == (4, 4, 0)
    (token,) = status.tokens
    assert (token.name, token.write, token.reason, token.hint) == (served.token.label, True, "", "")
    assert (token.token, token.keys) == (status.token, status.keys)


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    return start("--auto-create", environment={"KMSD_KEYS__REFRESH": "3600"}).wait_ok()


def test_how_far_kube_apiserver_follows_a_rotation_is_told(kmsd: Kmsd) -> None:
    before = kmsd.v2("Status").key_id
    new = ask(kmsd, "RotateKey").new_key
    following = kmsd.status().following
    assert (following.since_unix_ms, following.first_status_unix_ms, following.first_encrypt_unix_ms) == (0, 0, 0)
    assert following.previous_key_id == before
    kmsd.v2("Status")
    following = kmsd.status().following
    assert 0 < following.since_unix_ms <= following.first_status_unix_ms == following.last_status_unix_ms
    assert following.first_encrypt_unix_ms == 0
    time.sleep(0.01)
    assert encrypt(kmsd).key_id == new.key_id
    encrypt(kmsd)
    kmsd.v2("Status")
    last = kmsd.status().following
    assert last.first_status_unix_ms == following.first_status_unix_ms < last.last_status_unix_ms
    assert following.first_status_unix_ms < last.first_encrypt_unix_ms <= last.last_encrypt_unix_ms
    assert last.previous_key_id == before
    assert last.previous_key_id_sha256 == key(kmsd, before).key_id_sha256


def test_while_the_token_is_away_every_call_says_so_and_may_be_repeated(kmsd: Kmsd) -> None:
    sealed, label = encrypt(kmsd), make(kmsd).label
    before = keys(kmsd)
    with kmsd.soft.away():
        for method, fields in (
            *(("ListKeys", {}), ("ListSlots", {}), ("ListMechanisms", {}), ("RotateKey", {}), ("RevertKey", {})),
            *((method, {"key": label}) for method in ("GetKey", "TestKey", "RetireKey", "DestroyKey")),
            *(("GenerateKey", {"label": "x"}), ("RelabelKey", {"key": label, "label": "x"})),
            ("AdoptKey", {"label": label}),
        ):
            refusal = failure(partial(ask, kmsd, method, **fields))
            assert (refusal.code, refusal.retryable) == ("UNAVAILABLE", True), (method, refusal)
            assert_told(refusal)
        answer = ask(kmsd, "InspectCiphertext", data=sealed.ciphertext)
        assert not answer.readable
        assert "which is away" in answer.findings[0].message
        assert not answer.findings[0].fatal, "nothing is lost"
        status = kmsd.status()
        assert (status.state, status.token.up) == (admin.SERVING_STATE_DOWN, False)
        assert status.tokens[0].reason
        assert status.tokens[0].hint
        assert [problem.fatal for problem in status.problems] == [True]
    kmsd.wait_ok()
    assert keys(kmsd) == before
    assert ask(kmsd, "InspectCiphertext", data=sealed.ciphertext).readable


def test_a_key_without_an_id_gets_one(served: Kmsd) -> None:
    label = fresh("bare")
    served.soft.import_aes(label, bytes(32), None)
    adopted = ask(served, "AdoptKey", label=label).key
    assert (adopted.label, adopted.state) == (label, admin.KEY_STATE_READABLE)
    assert adopted.created_unix_ms == 0, "when it was made is not known"
    assert key(served, adopted.key_id).label == label
    refused(served, "AdoptKey", "FAILED_PRECONDITION", "has a CKA_ID already", label=label)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"label": "nothing"}, "NOT_FOUND", "no AES or HMAC key labelled 'nothing'"),
        ({"label": ""}, "INVALID_ARGUMENT", "1 to 255 bytes"),
        ({"label": "x" * 100_000}, "INVALID_ARGUMENT", "1 to 255 bytes"),
        ({"label": "k8s-kek"}, "FAILED_PRECONDITION", "has a CKA_ID already"),
        ({"label": BARE, "key_id": "with space"}, "INVALID_ARGUMENT", "a key id must have"),
        ({"label": BARE, "key_id": "x" * 513}, "INVALID_ARGUMENT", "a key id must have"),
        ({"label": BARE, "key_id": f"0x{BINARY_ID.hex()}"}, "ALREADY_EXISTS", f"0x{BINARY_ID.hex()}"),
        ({"label": BARE, "key_id": "01900000-0000-7000-8000-000000000001"}, "ALREADY_EXISTS", "01900000-0000"),
    ],
)
def test_what_cannot_be_adopted_is_refused(served: Kmsd, fields: dict[str, str], code: str, words: str) -> None:
    refused(served, "AdoptKey", code, words, **fields)


def test_two_keys_without_an_id_under_one_label_are_refused(served: Kmsd) -> None:
    label = fresh("bare")
    for _ in range(2):
        served.soft.import_aes(label, bytes(32), None)
    wait_for(lambda: [each.label for each in keys(served)].count(label) == 2)
    refused(served, "AdoptKey", "INVALID_ARGUMENT", "exactly one", label=label)
