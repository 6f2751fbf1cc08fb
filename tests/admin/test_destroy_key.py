"""DestroyKey: the one thing that cannot be undone is refused as long as anything speaks against it."""

from __future__ import annotations

import signal
from collections.abc import Callable

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import SEED, ask, decrypt, encrypt, failure, fresh, key, keys, make, refused, state
from tests.admin.conftest import BARE
from tests.daemons import Kmsd, wait_for

IDLE = 3


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    return start("--auto-create", environment={"KMSD_KEYS__IDLE_BEFORE_DESTROY": str(IDLE)}).wait_ok()


def idle(kmsd: Kmsd, which: str) -> None:
    """Until nothing speaks against destroying the key any more."""

    def may_go() -> bool:
        try:
            ask(kmsd, "DestroyKey", key=which, dry_run=True)
        except grpc.RpcError:
            return False
        return True

    wait_for(may_go)


def past_writer(kmsd: Kmsd) -> tuple[admin.Key, Callable[[], bytes]]:
    """A key that has written and writes no more, and what reads what it wrote."""
    sealed = encrypt(kmsd)
    old = ask(kmsd, "RotateKey").old_key
    assert old.key_id == sealed.key_id
    return old, lambda: decrypt(kmsd, sealed)


def test_a_key_that_nothing_needs_goes(kmsd: Kmsd) -> None:
    made = make(kmsd)
    idle(kmsd, made.key_id)
    answer = ask(kmsd, "DestroyKey", key=made.label)
    assert answer.destroyed
    assert answer.key == made, "as it was"
    assert not answer.HasField("companion")
    refused(kmsd, "GetKey", "NOT_FOUND", f"no key {made.label!r}", key=made.label)


def test_a_dry_run_destroys_nothing(kmsd: Kmsd) -> None:
    made = make(kmsd)
    before = state(kmsd)
    answer = ask(kmsd, "DestroyKey", key=made.label, dry_run=True, confirm_label=made.label)
    assert not answer.destroyed
    assert answer.key == made
    assert state(kmsd) == before


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_write_key_is_not_destroyed_unconfirmed(kmsd: Kmsd, dry_run: bool) -> None:
    for which in ("k8s-kek", kmsd.v2("Status").key_id):
        refusal = refused(
            kmsd, "DestroyKey", "FAILED_PRECONDITION", "'k8s-kek' is the write key", key=which, dry_run=dry_run
        )
        assert "--confirm k8s-kek" in refusal.hint


@pytest.mark.parametrize("wrong", ["k8s-kek ", "yes", "x" * 100_000])
def test_a_wrong_confirmation_destroys_nothing_even_what_nobody_needs(kmsd: Kmsd, wrong: str) -> None:
    made = make(kmsd)
    idle(kmsd, made.label)
    for which in ("k8s-kek", made.label):
        refused(kmsd, "DestroyKey", "INVALID_ARGUMENT", f"this key, which is {which!r}", key=which, confirm_label=wrong)


def test_a_key_that_was_used_lately_is_kept_until_it_has_been_idle(kmsd: Kmsd) -> None:
    old, read = past_writer(kmsd)
    assert read() == SEED
    refusal = refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "was used", key=old.key_id)
    assert f"--confirm {old.label}" in refusal.hint
    assert read() == SEED
    idle(kmsd, old.key_id)
    assert ask(kmsd, "DestroyKey", key=old.key_id).destroyed
    lost = failure(read)
    assert lost.code == "NOT_FOUND"
    assert old.key_id in lost.details
    assert encrypt(kmsd).key_id == kmsd.v2("Status").key_id


def test_when_a_key_was_used_is_known_after_a_restart(start: Callable[..., Kmsd]) -> None:
    """From the state directory; kmsd's own probes are no use of it."""
    kmsd = start("--auto-create").wait_ok()
    never = make(kmsd, key_id=fresh("id"))
    old, read = past_writer(kmsd)
    assert read() == SEED
    kmsd.stop()
    kmsd.start().wait_ok()
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "was used", key=old.key_id)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "it is not known whether", key=never.key_id)
    used = key(kmsd, old.key_id)
    assert used.last_used_unix_ms > 0
    assert used.decrypts == 0, "since this kmsd started"
    assert key(kmsd, "k8s-kek").last_used_unix_ms == 0
    assert ask(kmsd, "DestroyKey", key=old.key_id, confirm_label=old.label).destroyed
    assert failure(read).code == "NOT_FOUND"


def test_what_is_not_known_to_be_idle_is_kept(start: Callable[..., Kmsd]) -> None:
    """A kmsd that has noted uses for a moment only cannot say that a key is not in use, unless it is younger."""
    kmsd = start("--auto-create").wait_ok()
    young = make(kmsd)
    assert ask(kmsd, "DestroyKey", key=young.label).destroyed
    made = make(kmsd, key_id=fresh("id"))
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "it is not known whether", key=made.label)
    assert ask(kmsd, "DestroyKey", key=made.label, confirm_label=made.label).destroyed
    kmsd.stop(signal.SIGKILL)


def test_a_pair_goes_together(kmsd: Kmsd) -> None:
    label = fresh("pair")
    made = make(kmsd, label, admin.KEY_TYPE_PAIR)
    idle(kmsd, label)
    answer = ask(kmsd, "DestroyKey", key=label)
    assert (answer.key.label, answer.companion.label) == (label, f"{label}.hmac")
    assert not [each for each in keys(kmsd) if each.key_id == made.key_id]


def test_the_hmac_key_of_a_pair_is_not_destroyed_unconfirmed(kmsd: Kmsd) -> None:
    label = fresh("pair")
    make(kmsd, label, admin.KEY_TYPE_PAIR)
    idle(kmsd, label)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", f"the AES key {label!r} needs it", key=f"{label}.hmac")
    answer = ask(kmsd, "DestroyKey", key=f"{label}.hmac", confirm_label=f"{label}.hmac")
    assert answer.destroyed
    assert not answer.HasField("companion")
    assert [each.label for each in keys(kmsd) if each.label.startswith(label)] == [label]


def test_a_lone_hmac_key_goes(kmsd: Kmsd) -> None:
    made = make(kmsd, type=admin.KEY_TYPE_HMAC)
    assert ask(kmsd, "DestroyKey", key=made.label).destroyed


def test_a_key_that_cannot_serve_goes_only_confirmed(kmsd: Kmsd) -> None:
    """It may be k8s-kms-plugin's, which needs no CKA_ID, and hold a cluster's data."""
    assert kmsd.token is not None
    kmsd.token.import_aes(BARE, bytes(32), None)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "what it may have encrypted is not known", key=BARE)
    assert ask(kmsd, "DestroyKey", key=BARE, confirm_label=BARE).destroyed


def test_the_hmac_key_of_two_aes_keys_stays_with_the_second(kmsd: Kmsd) -> None:
    """Two AES keys with one CKA_ID are both unusable; with one gone the other is whole again."""
    label = fresh("pair")
    made = make(kmsd, label, admin.KEY_TYPE_PAIR)
    assert kmsd.token is not None
    kmsd.token.import_aes(f"{label}-twin", bytes(32), made.key_id.encode())
    wait_for(lambda: key(kmsd, f"{label}-twin").state == admin.KEY_STATE_UNUSABLE)
    twin, why = f"{label}-twin", "what it may have encrypted is not known"
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", why, key=twin)
    answer = ask(kmsd, "DestroyKey", key=twin, confirm_label=twin)
    assert answer.destroyed
    assert not answer.HasField("companion")
    assert sorted(each.label for each in keys(kmsd) if each.key_id == made.key_id) == [label, f"{label}.hmac"]
    assert key(kmsd, label).state == admin.KEY_STATE_READABLE


def test_the_write_key_goes_when_its_label_is_given_once_more(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    sealed = encrypt(kmsd)
    answer = ask(kmsd, "DestroyKey", key="k8s-kek", confirm_label="k8s-kek")
    assert answer.destroyed
    assert answer.key.state == admin.KEY_STATE_WRITE, "as it was"
    assert "no key" in kmsd.v2("Status").healthz
    assert failure(lambda: encrypt(kmsd)).code == "FAILED_PRECONDITION"
    lost = failure(lambda: decrypt(kmsd, sealed))
    assert lost.code == "NOT_FOUND"
    assert not keys(kmsd)
    make(kmsd, "k8s-kek")
    kmsd.wait_ok()
    assert encrypt(kmsd).key_id != sealed.key_id
