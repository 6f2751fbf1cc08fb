"""RelabelKey and TestKey: another label changes nothing else, and which key writes never changes unasked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import SEED, ask, decrypt, encrypt, fresh, key, make, refused, state
from tests.admin.conftest import BARE, READ_ONLY
from tests.daemons import Kmsd


def test_a_key_keeps_everything_but_its_label(served: Kmsd) -> None:
    before = make(served)
    to = fresh()
    answer = ask(served, "RelabelKey", key=before.label, label=to)
    assert answer.previous_label == before.label
    before.label = to
    assert answer.key == before == key(served, to)


def test_a_pair_moves_together(served: Kmsd) -> None:
    label, to = fresh("pair"), fresh("pair")
    made = make(served, label, admin.KEY_TYPE_PAIR)
    ask(served, "RelabelKey", key=label, label=to)
    found = ask(served, "GetKey", key=to)
    assert found.key.key_id == found.companion.key_id == made.key_id
    assert found.companion.label == f"{to}.hmac"
    assert not [each for each in state(served) if str(each[1]).startswith(f"{label}.") or each[1] == label]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(served: Kmsd) -> None:
    made = make(served)
    before = state(served)
    answer = ask(served, "RelabelKey", key=made.key_id, label=fresh(), dry_run=True)
    assert answer.previous_label == made.label
    assert answer.key.label == made.label
    assert state(served) == before


@pytest.mark.parametrize("which", ["k8s-kek", BARE])
def test_the_same_label_is_no_change(served: Kmsd, which: str) -> None:
    before = state(served)
    answer = ask(served, "RelabelKey", key=which, label=which)
    assert answer.previous_label == answer.key.label == which
    assert state(served) == before


def test_a_key_without_an_id_is_relabelled(served: Kmsd) -> None:
    to = fresh()
    assert ask(served, "RelabelKey", key=BARE, label=to).key.label == to
    assert ask(served, "RelabelKey", key=to, label=BARE).key.label == BARE


@pytest.mark.parametrize("label", ["", "x" * 256, "é" * 128, "a\nb", "\x1b[2J"])
def test_what_can_be_no_label_is_refused(served: Kmsd, label: str) -> None:
    refused(served, "RelabelKey", "INVALID_ARGUMENT", "1 to 255 bytes", key="binary", label=label)


@pytest.mark.parametrize("label", ["k8s-kek.pending", "binary@20260102T030405Z", "binary.retired@20260102T030405Z"])
def test_labels_that_rotations_give_are_refused(served: Kmsd, label: str) -> None:
    refused(served, "RelabelKey", "INVALID_ARGUMENT", "is only for rotations to give", key="binary", label=label)


@pytest.mark.parametrize("confirm", ["", "binary"])
def test_a_label_that_is_taken_is_refused_whatever_is_confirmed(served: Kmsd, confirm: str) -> None:
    for taken in ("k8s-kek", READ_ONLY):
        refused(
            served,
            "RelabelKey",
            "ALREADY_EXISTS",
            f"a key labelled {taken!r} already",
            key="binary",
            label=taken,
            confirm_label=confirm,
        )


def test_a_pair_does_not_move_where_its_hmac_key_cannot_follow(served: Kmsd) -> None:
    label = fresh("pair")
    make(served, label, admin.KEY_TYPE_PAIR)
    taken = make(served, f"{fresh()}.hmac", admin.KEY_TYPE_HMAC).label
    refused(
        served, "RelabelKey", "ALREADY_EXISTS", f"{taken!r}", key=label, label=taken.removesuffix(".hmac"), dry_run=True
    )
    refused(served, "RelabelKey", "ALREADY_EXISTS", f"{taken!r}", key=label, label=taken.removesuffix(".hmac"))
    refused(served, "RelabelKey", "INVALID_ARGUMENT", "1 to 255 bytes", key=label, label="y" * 251)


def test_the_write_key_is_relabelled_only_if_its_label_is_given_once_more(served: Kmsd) -> None:
    refusal = refused(
        served, "RelabelKey", "FAILED_PRECONDITION", "'k8s-kek' is the write key", key="k8s-kek", label=fresh()
    )
    assert "--confirm k8s-kek" in refusal.hint
    assert "kmsctl rotate" in refusal.hint
    refused(served, "RelabelKey", "FAILED_PRECONDITION", "the write key", key="k8s-kek", label=fresh(), dry_run=True)


@pytest.mark.parametrize("wrong", ["k8s-kek ", "K8S-KEK", "binary", "x" * 100_000])
def test_a_wrong_confirmation_is_refused(served: Kmsd, wrong: str) -> None:
    refused(
        served,
        "RelabelKey",
        "INVALID_ARGUMENT",
        "is not the label of this key, which is 'k8s-kek'",
        key="k8s-kek",
        label=fresh(),
        confirm_label=wrong,
    )


def test_which_key_writes_changes_when_that_is_confirmed(start: Callable[..., Kmsd]) -> None:
    """Away with the write label, and to another key with it."""
    kmsd = start("--auto-create").wait_ok()
    before = encrypt(kmsd)
    other = make(kmsd, "other")
    assert ask(kmsd, "RelabelKey", key="k8s-kek", label="old", confirm_label="k8s-kek").previous_label == "k8s-kek"
    assert kmsd.v2("Status").healthz != "ok"
    assert kmsd.status().state == admin.SERVING_STATE_DOWN
    assert decrypt(kmsd, before) == SEED
    refusal = refused(
        kmsd, "RelabelKey", "FAILED_PRECONDITION", "'other' would become the write key", key="other", label="k8s-kek"
    )
    assert "--confirm other" in refusal.hint
    done = ask(kmsd, "RelabelKey", key="other", label="k8s-kek", confirm_label="other")
    assert done.key.state == admin.KEY_STATE_WRITE
    kmsd.wait_ok()
    assert encrypt(kmsd).key_id == kmsd.v2("Status").key_id == other.key_id
    assert decrypt(kmsd, before) == SEED


@pytest.mark.parametrize("behind", ["@20260102T030405Z", ".retired@20260102T030405Z"])
def test_a_key_that_wrote_before_is_relabelled_only_if_its_label_is_given_once_more(served: Kmsd, behind: str) -> None:
    """What k8s-kms-plugin wrote names the label, and finds the key by what is left of it."""
    label, to = fresh("old"), fresh()
    made = make(served, label)
    served.soft.relabel(label, f"{label}{behind}")
    assert key(served, made.key_id).state in (admin.KEY_STATE_READABLE, admin.KEY_STATE_ARCHIVED)
    fields = {"key": made.key_id, "label": to}
    for dry_run in (False, True):
        refusal = refused(served, "RelabelKey", "FAILED_PRECONDITION", f"wrote as {label!r}", dry_run=dry_run, **fields)
        assert f"--confirm {label}{behind}" in refusal.hint
    assert ask(served, "RelabelKey", confirm_label=f"{label}{behind}", **fields).key.label == to
    ask(served, "RelabelKey", key=made.key_id, label=label)
    served.soft.relabel(label, f"{label}{behind}")
    assert ask(served, "RelabelKey", key=made.key_id, label=label).key.label == label, "it is found as before"


def test_a_test_is_timed_and_leaves_no_use(served: Kmsd) -> None:
    made = make(served)
    answer = ask(served, "TestKey", key=made.label, rounds=20)
    assert answer.rounds == 20
    for of in ("encrypt", "decrypt"):
        least, middle, most = (getattr(answer, f"{of}_ms_{each}") for each in ("min", "median", "max"))
        assert 0 < least <= middle <= most < 10_000
    assert answer.key == made, "a test is no use"
    assert ask(served, "TestKey", key=made.label).rounds == 10
    assert ask(served, "TestKey", key=made.label, rounds=1000).rounds == 1000


@pytest.mark.parametrize("rounds", [1001, 2**32 - 1])
def test_too_many_rounds_are_refused(served: Kmsd, rounds: int) -> None:
    refused(
        served, "TestKey", "INVALID_ARGUMENT", f"rounds must be 1 to 1000, got {rounds}", key="k8s-kek", rounds=rounds
    )


def test_a_key_that_cannot_be_tested_says_why(served: Kmsd) -> None:
    refused(served, "TestKey", "FAILED_PRECONDITION", "'read-only' cannot be tested: it may not encrypt", key=READ_ONLY)
    refused(served, "TestKey", "FAILED_PRECONDITION", "no CKA_ID", key=BARE)
    hmac = make(served, type=admin.KEY_TYPE_HMAC)
    refused(served, "TestKey", "FAILED_PRECONDITION", "it is an HMAC key", key=hmac.label)
