"""GenerateKey: what it makes, what it finds, and what it refuses to make."""

from __future__ import annotations

import re
import time

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, fresh, key, keys, make, refused
from tests.admin.conftest import AMBIGUOUS, BINARY_ID
from tests.daemons import Kmsd

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
AES, HMAC, PAIR = admin.KEY_TYPE_AES, admin.KEY_TYPE_HMAC, admin.KEY_TYPE_PAIR


@pytest.mark.parametrize(("asked", "bits"), [(0, 256), (128, 128), (192, 192), (256, 256)])
def test_an_aes_key_of_every_size(served: Kmsd, asked: int, bits: int) -> None:
    label = fresh("aes")
    answer = ask(served, "GenerateKey", label=label, type=AES, bits=asked)
    made = answer.key
    assert answer.created
    assert not answer.HasField("companion")
    assert (made.label, made.type, made.bits, made.enc) == (label, AES, bits, f"A{bits}GCM")
    assert made.state == admin.KEY_STATE_READABLE, "it writes only with the write label"
    assert UUID7.fullmatch(made.key_id)
    assert abs(made.created_unix_ms / 1000 - time.time()) < 60
    assert (made.can_encrypt, made.can_decrypt, made.can_sign, made.can_verify) == (True, True, False, False)
    assert (made.sensitive, made.extractable, made.private) == (True, False, True)
    assert key(served, label).key_id == made.key_id
    assert ask(served, "TestKey", key=label, rounds=1).rounds == 1


@pytest.mark.parametrize("bits", [128, 192, 256, 384, 512])
def test_an_hmac_key(served: Kmsd, bits: int) -> None:
    made = make(served, fresh("hmac"), HMAC, bits=bits)
    assert (made.type, made.bits, made.state) == (HMAC, bits, admin.KEY_STATE_COMPANION)
    assert (made.can_encrypt, made.can_decrypt, made.can_sign, made.can_verify) == (False, False, True, True)
    assert (made.sensitive, made.extractable, made.private, made.enc) == (True, False, True, "")


@pytest.mark.parametrize(("asked", "bits"), [(0, 256), (128, 128), (256, 256)])
def test_a_pair_has_one_id(served: Kmsd, asked: int, bits: int) -> None:
    label = fresh("pair")
    answer = ask(served, "GenerateKey", label=label, type=PAIR, bits=asked)
    assert (answer.key.label, answer.companion.label) == (label, f"{label}.hmac")
    assert (answer.key.type, answer.companion.type) == (AES, HMAC)
    assert answer.key.key_id == answer.companion.key_id
    assert answer.key.bits == answer.companion.bits == bits
    again = ask(served, "GenerateKey", label=label, type=PAIR, if_not_exists=True)
    assert not again.created
    assert (again.key.key_id, again.companion.key_id) == (answer.key.key_id, answer.key.key_id)


def test_an_aes_key_is_what_is_made_if_nothing_is_said(served: Kmsd) -> None:
    made = ask(served, "GenerateKey", label=fresh()).key
    assert (made.type, made.bits) == (AES, 256)


def test_the_write_key_stays_what_it_was(served: Kmsd) -> None:
    before = served.v2("Status").key_id
    make(served)
    assert served.v2("Status").key_id == before


def test_if_not_exists_answers_what_is_there(served: Kmsd) -> None:
    label = fresh()
    first = ask(served, "GenerateKey", label=label, if_not_exists=True)
    second = ask(served, "GenerateKey", label=label, if_not_exists=True)
    assert (first.created, second.created) == (True, False)
    assert first.key.key_id == second.key.key_id
    assert [each.label for each in keys(served)].count(label) == 1


def test_an_id_of_the_operators_choice(served: Kmsd) -> None:
    chosen = fresh("id")
    made = make(served, key_id=chosen)
    assert (made.key_id, made.created_unix_ms) == (chosen, 0)


@pytest.mark.parametrize("label", ["x" * 255, "é" * 127, "with spaces / and 鍵", "a@b", "x.hmac", "sha256:12"])
def test_any_printable_label_will_do(served: Kmsd, label: str) -> None:
    assert make(served, label).label == label


@pytest.mark.parametrize("label", ["", "x" * 256, "é" * 128, "a\nb", "a\0b", "a\x7fb", "\u2028", "x" * 100_000])
@pytest.mark.parametrize("kind", [AES, PAIR])
def test_what_can_be_no_label_is_refused(served: Kmsd, label: str, kind: admin.KeyType) -> None:
    refused(served, "GenerateKey", "INVALID_ARGUMENT", "1 to 255 bytes", label=label, type=kind)


@pytest.mark.parametrize("label", ["x" * 251, "x" * 255])
def test_a_pair_needs_room_for_the_label_of_its_hmac_key(served: Kmsd, label: str) -> None:
    refused(served, "GenerateKey", "INVALID_ARGUMENT", "1 to 255 bytes", label=label, type=PAIR)


@pytest.mark.parametrize(
    "label",
    [
        "k8s-kek.pending",
        "k8s-kek@20260102T030405Z",
        "k8s-kek.retired@20260102T030405Z",
        "x.pending",
        "x@20260102T030405Z",
    ],
)
@pytest.mark.parametrize("kind", [AES, HMAC, PAIR])
def test_labels_that_rotations_give_are_refused(served: Kmsd, label: str, kind: admin.KeyType) -> None:
    refused(served, "GenerateKey", "INVALID_ARGUMENT", "is only for rotations to give", label=label, type=kind)


@pytest.mark.parametrize(
    ("kind", "bits", "hint"),
    [
        (AES, 64, "128, 192, 256"),
        (AES, 255, "128, 192, 256"),
        (AES, 512, "128, 192, 256"),
        (AES, 2**32 - 1, "128, 192, 256"),
        (HMAC, 64, "128, 192, 256, 384, 512"),
        (HMAC, 1024, "128, 192, 256, 384, 512"),
        (PAIR, 192, "128, 256"),
    ],
)
def test_sizes_that_there_are_not_are_refused(served: Kmsd, kind: admin.KeyType, bits: int, hint: str) -> None:
    refusal = refused(served, "GenerateKey", "INVALID_ARGUMENT", f"{bits} bits", label=fresh(), type=kind, bits=bits)
    assert hint in refusal.hint


@pytest.mark.parametrize("kind", [admin.KEY_TYPE_OTHER, 99])
def test_types_that_kmsd_does_not_make_are_refused(served: Kmsd, kind: int) -> None:
    refused(
        served,
        "GenerateKey",
        "INVALID_ARGUMENT",
        "the type of a key must be aes, hmac, pair or rsa",
        label=fresh(),
        type=kind,
    )


@pytest.mark.parametrize("kind", [AES, PAIR])
def test_a_label_that_is_taken_is_refused(served: Kmsd, kind: admin.KeyType) -> None:
    refusal = refused(served, "GenerateKey", "ALREADY_EXISTS", "a key labelled 'k8s-kek'", label="k8s-kek", type=kind)
    assert "kmsctl rotate" in refusal.hint


def test_a_label_is_taken_by_a_key_of_its_own_type_only(served: Kmsd) -> None:
    label = make(served).label
    assert make(served, label, HMAC).type == HMAC
    refused(served, "GenerateKey", "ALREADY_EXISTS", f"a key labelled {label!r}", label=label, type=HMAC)


def test_a_key_that_is_there_is_no_pair(served: Kmsd) -> None:
    refused(served, "GenerateKey", "ALREADY_EXISTS", "it is no pair", label="k8s-kek", type=PAIR, if_not_exists=True)


def test_a_pair_is_not_made_where_the_label_of_its_hmac_key_is_taken(served: Kmsd) -> None:
    """Two HMAC keys labelled alike: nobody could tell by the label which belongs to the pair."""
    label = fresh("pair")
    make(served, f"{label}.hmac", HMAC)
    refused(served, "GenerateKey", "ALREADY_EXISTS", f"'{label}.hmac'", label=label, type=PAIR)


def test_a_pair_that_was_made_by_half_is_made_whole(served: Kmsd) -> None:
    """Its HMAC key comes first. A script that was stopped in between, and runs again, ends with one pair."""
    label = fresh("pair")
    half = make(served, f"{label}.hmac", HMAC)
    answer = ask(served, "GenerateKey", label=label, type=PAIR, if_not_exists=True)
    assert answer.created
    assert answer.key.key_id == answer.companion.key_id == half.key_id
    again = ask(served, "GenerateKey", label=label, type=PAIR, if_not_exists=True)
    assert not again.created
    assert [each.label for each in keys(served) if each.label.startswith(label)] == [label, f"{label}.hmac"]


def test_an_hmac_key_of_another_size_is_no_half_of_the_pair(served: Kmsd) -> None:
    label = fresh("pair")
    make(served, f"{label}.hmac", HMAC, bits=128)
    refused(served, "GenerateKey", "ALREADY_EXISTS", f"'{label}.hmac'", label=label, type=PAIR, if_not_exists=True)


@pytest.mark.parametrize("which", ["the write key's", "0x" + BINARY_ID.hex()])
def test_an_id_that_reads_like_another_is_refused(served: Kmsd, which: str) -> None:
    """Both keys would be unusable from then on."""
    key_id = which if which.startswith("0x") else served.v2("Status").key_id
    for kind in (AES, PAIR):
        refused(served, "GenerateKey", "ALREADY_EXISTS", f"{key_id!r}", label=fresh(), type=kind, key_id=key_id)


@pytest.mark.parametrize("key_id", ["with space", "ümlaut", "x" * 513, "x" * 100_000, "tab\t"])
def test_what_can_be_no_id_is_refused(served: Kmsd, key_id: str) -> None:
    refused(served, "GenerateKey", "INVALID_ARGUMENT", "a key id must have", label=fresh(), key_id=key_id)


@pytest.mark.parametrize("token", ["nowhere", "spare", "x" * 100_000, "a\nb"])
def test_a_token_that_is_not_configured_is_not_found(served: Kmsd, token: str) -> None:
    refusal = refused(served, "GenerateKey", "NOT_FOUND", "no token called", label=fresh(), token=token)
    assert served.token is not None
    assert served.token.label in refusal.hint


def test_two_keys_with_one_label_count_as_taken(served: Kmsd) -> None:
    refused(served, "GenerateKey", "ALREADY_EXISTS", f"{AMBIGUOUS!r}", label=AMBIGUOUS)
