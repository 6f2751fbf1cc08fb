"""TryCiphertext: a stored value is decrypted as kube-apiserver would have it done, and nothing of it is answered."""

from __future__ import annotations

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import SEED, ask, encrypt, failure
from tests.admin.test_audit import records
from tests.daemons import Kmsd
from tests.etcd import values
from tests.rpc.refusals import assert_silent


def attempt(kmsd: Kmsd, data: bytes) -> admin.TryCiphertextResponse:
    answer: admin.TryCiphertextResponse = ask(kmsd, "TryCiphertext", data=data)
    return answer


def flipped(ciphertext: bytes) -> bytes:
    """With another tag."""
    return ciphertext[:-2] + (b"AA" if ciphertext[-2:] != b"AA" else b"BA")


def test_a_value_that_opens_is_answered_with_its_key_alone(served: Kmsd) -> None:
    sealed = encrypt(served)
    for value in (sealed.ciphertext, values.v1(sealed.ciphertext), values.v2(sealed.key_id, sealed.ciphertext)):
        answer = attempt(served, value)
        assert answer.key.key_id == sealed.key_id
        assert_silent(str(answer), SEED)


def test_a_tag_that_was_altered_looks_sound_and_does_not_open(served: Kmsd) -> None:
    sealed = encrypt(served)
    for value in (
        flipped(sealed.ciphertext),
        values.v1(flipped(sealed.ciphertext)),
        values.v2(sealed.key_id, flipped(sealed.ciphertext)),
    ):
        assert ask(served, "InspectCiphertext", data=value).readable
        refusal = failure(lambda value=value: attempt(served, value))
        assert refusal.code == "INVALID_ARGUMENT"
        assert "does not authenticate" in refusal.details


@pytest.mark.parametrize(
    ("value", "words"),
    [(b"hello", "nothing to decrypt"), (b'{"kind":"Secret"}', "it is not encrypted"), (b"", "the input is empty")],
)
def test_what_has_no_ciphertext_is_refused_with_the_reason(served: Kmsd, value: bytes, words: str) -> None:
    refusal = failure(lambda: attempt(served, value))
    assert refusal.code == "INVALID_ARGUMENT"
    assert words in refusal.details
    assert refusal.hint


def test_the_envelopes_key_id_has_to_fit_as_kube_apiserver_asks(served: Kmsd) -> None:
    sealed = encrypt(served)
    refusal = failure(lambda: attempt(served, values.v2("another-key", sealed.ciphertext)))
    assert refusal.code == "INVALID_ARGUMENT"


def test_every_try_is_recorded_and_nothing_of_the_value(served: Kmsd) -> None:
    sealed = encrypt(served)
    attempt(served, sealed.ciphertext)
    failure(lambda: attempt(served, flipped(sealed.ciphertext)))
    done, failed = records(served, 2)
    assert [each.action for each in (done, failed)] == ["TryCiphertext"] * 2
    assert [each.outcome for each in (done, failed)] == ["OK", "INVALID_ARGUMENT"]
    assert done.key_id_sha256
    assert_silent(str((done, failed)), SEED, sealed.ciphertext)
