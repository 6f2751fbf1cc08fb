"""DestroyKey: the one thing that cannot be undone is refused until something shows that nothing needs the key."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import SEED, ask, decrypt, encrypt, failure, fresh, key, keys, make, refused, state
from tests.admin.conftest import BARE
from tests.admin.test_retire_key import LONG_AGO, Use, scan
from tests.daemons import Kmsd, wait_for


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    return start("--auto-create").wait_ok()


def past_writer(kmsd: Kmsd) -> tuple[admin.Key, Callable[[], bytes]]:
    """A key that has written and writes no more, and what reads what it wrote."""
    sealed = encrypt(kmsd)
    old = ask(kmsd, "RotateKey").old_key
    assert old.key_id == sealed.key_id
    return old, lambda: decrypt(kmsd, sealed)


def test_a_key_that_was_made_here_and_never_used_goes(kmsd: Kmsd) -> None:
    made = make(kmsd)
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
    for which in ("k8s-kek", made.label):
        refused(kmsd, "DestroyKey", "INVALID_ARGUMENT", f"this key, which is {which!r}", key=which, confirm_label=wrong)


def test_a_key_that_has_written_goes_only_retired_or_confirmed_however_idle_it_is(kmsd: Kmsd) -> None:
    old, read = past_writer(kmsd)
    refusal = refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "nothing shows that no stored object", key=old.key_id)
    assert re.search(r"this kmsd used it \d seconds? ago", refusal.details)
    assert f"kmsctl etcd scan --report FILE, then kmsctl keys retire {old.label} --report FILE" in refusal.hint
    assert f"--confirm {old.label}" in refusal.hint
    assert read() == SEED
    assert ask(kmsd, "DestroyKey", key=old.key_id, confirm_label=old.label).destroyed
    lost = failure(read)
    assert lost.code == "NOT_FOUND"
    assert old.key_id in lost.details
    assert encrypt(kmsd).key_id == kmsd.v2("Status").key_id


def test_a_scan_shows_that_a_key_may_go(kmsd: Kmsd) -> None:
    _, read = past_writer(kmsd)
    (old,) = [each for each in keys(kmsd) if each.label.startswith("k8s-kek@")]
    kmsd.soft.relabel(old.label, LONG_AGO)
    wait_for(lambda: key(kmsd, old.key_id).label == LONG_AGO)
    time.sleep(0.01)
    writes = kmsd.v2("Status").key_id
    which = {"key": old.key_id}
    for bad, words in (
        (scan(uses=[Use(key_id=old.key_id.encode().hex().upper(), objects=7)]), "7 stored objects need"),
        (scan(uses=[Use(key_id=writes, objects=7, label="k8s-kek")]), "7 stored objects need"),
        (scan(uses=[Use(key_id="gone", objects=1)]), "1 stored object names 'gone', which no key is called"),
        (scan(unknown=1), "could not be read"),
        (scan(began=-2000, ended=-1000), "is 17 minutes old"),
    ):
        assert (
            f"--confirm {LONG_AGO}" in refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", words, scan=bad, **which).hint
        )
    refused(kmsd, "DestroyKey", "INVALID_ARGUMENT", "the report", scan=admin.ScanReport(), **which)
    good = scan(uses=[Use(key_id=writes, objects=1000)])
    assert not ask(kmsd, "DestroyKey", scan=good, dry_run=True, **which).destroyed
    assert read() == SEED
    late = refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "was used", scan=good, **which)
    assert "after the scan began" in late.details
    time.sleep(0.01)
    assert ask(kmsd, "DestroyKey", scan=scan(uses=[Use(key_id=writes, objects=1000)]), **which).destroyed


def test_a_retired_key_goes_unless_it_was_used_since(kmsd: Kmsd) -> None:
    old, read = past_writer(kmsd)
    assert read() == SEED
    retired = ask(kmsd, "RetireKey", key=old.key_id, confirm_label=old.label).key
    assert not ask(kmsd, "DestroyKey", key=old.key_id, dry_run=True).destroyed, "used just before is no use since"
    time.sleep(1.0)  # the label tells the second
    assert read() == SEED
    refusal = refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "after it was retired", key=old.key_id)
    assert f"kmsctl keys destroy {retired.label} --report FILE" in refusal.hint, "it cannot be retired again"
    assert ask(kmsd, "DestroyKey", key=old.key_id, confirm_label=retired.label).destroyed


def test_a_retired_key_that_was_not_used_since_goes(kmsd: Kmsd) -> None:
    old, read = past_writer(kmsd)
    ask(kmsd, "RetireKey", key=old.key_id, confirm_label=old.label)
    assert ask(kmsd, "DestroyKey", key=old.key_id).destroyed
    assert failure(read).code == "NOT_FOUND"


def test_what_this_kmsd_knows_of_a_key_outlives_a_restart_in_order_and_no_other(start: Callable[..., Kmsd]) -> None:
    """From the state directory; kmsd's own probes are no use of a key."""
    kmsd = start("--auto-create").wait_ok()
    never, read_by_others = make(kmsd), make(kmsd)
    old, read = past_writer(kmsd)
    assert read() == SEED
    kmsd.stop()
    kmsd.start().wait_ok()
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "this kmsd used it", key=old.key_id)
    used = key(kmsd, old.key_id)
    assert used.last_used_unix_ms > 0
    assert used.decrypts == 0, "since this kmsd started"
    assert key(kmsd, "k8s-kek").last_used_unix_ms == 0
    assert ask(kmsd, "DestroyKey", key=never.key_id).destroyed
    kmsd.stop(signal.SIGKILL)
    kmsd.start().wait_ok()
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "has noted no use of it", key=read_by_others.key_id)


@pytest.mark.parametrize("cka_id", [b"made-elsewhere", b"01900000-0000-7000-8000-000000000001"])
def test_a_key_that_was_made_elsewhere_is_like_one_that_has_written(kmsd: Kmsd, cka_id: bytes) -> None:
    """Whatever its id says of its age."""
    label = fresh("foreign")
    kmsd.soft.import_aes(label, bytes(32), cka_id)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "has noted no use of it", key=label)
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "has noted no use of it", key=label)
    assert ask(kmsd, "DestroyKey", key=label, confirm_label=label).destroyed


def test_a_key_that_was_adopted_is_like_one_that_has_written(kmsd: Kmsd) -> None:
    label = fresh("adopted")
    kmsd.soft.import_aes(label, bytes(32), None)
    ask(kmsd, "AdoptKey", label=label)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "has noted no use of it", key=label)
    assert ask(kmsd, "DestroyKey", key=label, confirm_label=label).destroyed


def test_a_key_that_has_had_the_write_label_is_known_by_that_under_another_label(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    spare = make(kmsd)
    ask(kmsd, "RelabelKey", key="k8s-kek", label="before", confirm_label="k8s-kek")
    ask(kmsd, "RelabelKey", key=spare.key_id, label="k8s-kek", confirm_label=spare.label)
    ask(kmsd, "RelabelKey", key=spare.key_id, label=spare.label, confirm_label="k8s-kek")
    for label in ("before", spare.label):
        refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "has noted no use of it", key=label)


def test_a_pair_goes_together(kmsd: Kmsd) -> None:
    label = fresh("pair")
    made = make(kmsd, label, admin.KEY_TYPE_PAIR)
    answer = ask(kmsd, "DestroyKey", key=label)
    assert (answer.key.label, answer.companion.label) == (label, f"{label}.hmac")
    assert not [each for each in keys(kmsd) if each.key_id == made.key_id]


def test_the_hmac_key_of_a_pair_is_not_destroyed_unconfirmed(kmsd: Kmsd) -> None:
    label = fresh("pair")
    make(kmsd, label, admin.KEY_TYPE_PAIR)
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
    kmsd.soft.import_aes(BARE, bytes(32), None)
    refused(kmsd, "DestroyKey", "FAILED_PRECONDITION", "what it may have encrypted is not known", key=BARE)
    assert ask(kmsd, "DestroyKey", key=BARE, confirm_label=BARE).destroyed


def test_the_hmac_key_of_two_aes_keys_stays_with_the_second(kmsd: Kmsd) -> None:
    """Two AES keys with one CKA_ID are both unusable; with one gone the other is whole again."""
    label = fresh("pair")
    made = make(kmsd, label, admin.KEY_TYPE_PAIR)
    kmsd.soft.import_aes(f"{label}-twin", bytes(32), made.key_id.encode())
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
