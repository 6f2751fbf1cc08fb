"""RetireKey and RevertKey: a key is marked as not needed only on evidence, and reads until it is destroyed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.admin.calls import SEED, ask, decrypt, encrypt, fresh, key, make, refused, state
from tests.daemons import Kmsd, wait_for

LONG_AGO = "k8s-kek@20200102T030405Z"
Use = admin.ScanReport.Use


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    kmsd = start("--auto-create").wait_ok()
    time.sleep(0.01)  # a scan that begins in this millisecond begins after kmsd
    return kmsd


def scan(
    *, began: float = 0.0, ended: float = 0.0, prefix: str = "/registry", unknown: int = 0, uses: Sequence[Use] = ()
) -> admin.ScanReport:
    """What `kmsctl etcd scan` would have counted. began, ended: seconds from now."""
    now = time.time()
    return admin.ScanReport(
        started_unix_ms=int((now + began) * 1000),
        finished_unix_ms=int((now + ended) * 1000),
        prefix=prefix,
        objects=1000,
        unknown=unknown,
        uses=uses,
    )


def present(kmsd: Kmsd) -> list[Use]:
    """What is stored, all of it under the write key."""
    return [Use(key_id=kmsd.v2("Status").key_id, objects=1000)]


@pytest.fixture
def old(kmsd: Kmsd) -> tuple[admin.Key, v2.EncryptResponse]:
    """A key that gave up the write label long ago, and what it wrote."""
    sealed = encrypt(kmsd)
    rotated = ask(kmsd, "RotateKey").old_key
    to = rotated.label[:8] + "2020" + rotated.label[12:]
    kmsd.soft.relabel(rotated.label, to)
    found = key(kmsd, sealed.key_id)
    assert found.label == to
    time.sleep(0.01)  # its last use is before whatever scan begins now
    return found, sealed


def test_a_key_that_no_stored_object_needs_is_marked_and_reads_until_it_is_destroyed(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse]
) -> None:
    before, sealed = old
    writes = kmsd.v2("Status").key_id
    good = scan(uses=[Use(key_id=writes, objects=1000), Use(key_id=before.key_id, objects=0)])
    told = ask(kmsd, "RetireKey", key=before.key_id, scan=good, dry_run=True)
    assert (told.previous_label, told.key) == (before.label, before)
    answer = ask(kmsd, "RetireKey", key=before.key_id, scan=good)
    assert answer.previous_label == before.label
    assert re.fullmatch(r"k8s-kek\.retired@\d{8}T\d{6}Z", answer.key.label)
    assert answer.key.state == admin.KEY_STATE_ARCHIVED
    assert answer.key.key_id == before.key_id
    again = ask(kmsd, "RetireKey", key=before.key_id)
    assert again.key.label == again.previous_label == answer.key.label, "it is retired already"
    assert decrypt(kmsd, sealed) == SEED
    assert ask(kmsd, "DestroyKey", key=before.key_id, confirm_label=answer.key.label).destroyed
    assert kmsd.v2("Status").key_id == writes


def test_without_a_scan_nothing_shows_that_it_is_not_needed(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse]
) -> None:
    refusal = refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "nothing shows", key=old[0].key_id)
    assert "kmsctl etcd scan --report" in refusal.hint
    assert f"--confirm {old[0].label}" in refusal.hint


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (lambda key: scan(began=-2000, ended=-1000), "the scan is 17 minutes old"),
        (lambda key: scan(began=-1, ended=3600), "the scan ended in the future"),
        (lambda key: scan(prefix="/registry/secrets"), "'/registry/secrets' only"),
        (lambda key: scan(prefix="/reg"), "'/reg' only"),
        (lambda key: scan(prefix="/" + "x" * 100_000), "xxx...' only"),
        (lambda key: scan(unknown=3), "3 stored values could not be read"),
        (lambda key: scan(uses=[Use(key_id=key.key_id, objects=7)]), "7 stored objects need"),
        (lambda key: scan(uses=[Use(key_id="k8s-kek", by_label=True, objects=5)]), "5 stored objects need"),
        (lambda key: scan(uses=[Use(key_id=key.key_id, by_label=True, objects=6)]), "6 stored objects need"),
        (lambda key: scan(uses=[Use(key_id=key.key_id.encode().hex(), objects=2)]), "2 stored objects need"),
        (
            lambda key: scan(uses=[Use(key_id="0X" + key.key_id.encode().hex().upper(), objects=1)]),
            "1 stored object needs",
        ),
        (lambda key: scan(uses=[Use(key_id="gone", label="k8s-kek", objects=8)]), "8 stored objects need"),
        (lambda key: scan(uses=[Use(key_id="gone", by_label=True, objects=4)]), "'gone', which no key is called"),
        (lambda key: scan(uses=[Use(key_id="0xdeadbeef", objects=4)]), "'0xdeadbeef', which no key is called"),
    ],
)
def test_a_scan_that_speaks_against_it_or_proves_nothing_is_not_enough(
    kmsd: Kmsd,
    old: tuple[admin.Key, v2.EncryptResponse],
    report: Callable[[admin.Key], admin.ScanReport],
    words: str,
) -> None:
    refusal = refused(kmsd, "RetireKey", "FAILED_PRECONDITION", words, key=old[0].key_id, scan=report(old[0]))
    assert f"--confirm {old[0].label}" in refusal.hint


@pytest.mark.parametrize("prefix", ["/registry/", "/", "/registry"])
def test_a_scan_of_all_there_is_will_do_however_it_was_asked_for(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse], prefix: str
) -> None:
    writes = kmsd.v2("Status").key_id
    others = [Use(key_id=writes.encode().hex(), objects=3), Use(key_id=writes, by_label=True, objects=3)]
    assert ask(kmsd, "RetireKey", key=old[0].key_id, scan=scan(prefix=prefix, uses=others)).key.label


def test_a_use_after_the_scan_began_speaks_against_it(kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse]) -> None:
    report = scan()
    time.sleep(0.01)
    decrypt(kmsd, old[1])
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "after the scan began", key=old[0].key_id, scan=report)


def test_a_scan_that_began_before_uses_were_noted_is_not_enough(kmsd: Kmsd) -> None:
    """But for a key that kmsd has made since."""
    old, new = fresh("old"), make(kmsd)
    kmsd.soft.import_aes(old, bytes(32), old.encode())
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "it is not known", key=old, scan=scan(began=-800))
    assert (
        ask(kmsd, "RetireKey", key=new.label, scan=scan(began=-800, uses=present(kmsd))).key.state
        == admin.KEY_STATE_ARCHIVED
    )


def test_a_scan_that_began_too_soon_after_the_rotation_proves_nothing(kmsd: Kmsd) -> None:
    """A kube-apiserver may have written under the old key meanwhile."""
    rotated = ask(kmsd, "RotateKey").old_key
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "less than 5 minutes", key=rotated.key_id, scan=scan())


@pytest.mark.parametrize(
    "report",
    [
        admin.ScanReport(),
        admin.ScanReport(started_unix_ms=2, finished_unix_ms=1, prefix="/registry"),
        admin.ScanReport(started_unix_ms=-5, finished_unix_ms=-1, prefix="/registry"),
        admin.ScanReport(started_unix_ms=1, finished_unix_ms=2, prefix=""),
        admin.ScanReport(started_unix_ms=1, finished_unix_ms=2, prefix="registry"),
        admin.ScanReport(
            started_unix_ms=1, finished_unix_ms=2, prefix="/registry", uses=[Use(key_id="x") for _ in range(10_001)]
        ),
    ],
    ids=["empty", "backwards", "before-1970", "no-prefix", "relative", "too-many-keys"],
)
def test_what_no_scan_reports_is_refused_even_if_confirmed(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse], report: admin.ScanReport
) -> None:
    refused(
        kmsd,
        "RetireKey",
        "INVALID_ARGUMENT",
        "the report",
        key=old[0].key_id,
        scan=report,
        confirm_label=old[0].label,
    )


def test_times_at_the_edge_of_what_the_fields_hold_are_just_wrong(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse]
) -> None:
    report = admin.ScanReport(started_unix_ms=2**63 - 1, finished_unix_ms=2**63 - 1, prefix="/registry")
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "in the future", key=old[0].key_id, scan=report)


def test_the_label_given_once_more_retires_it_in_spite_of_everything(
    kmsd: Kmsd, old: tuple[admin.Key, v2.EncryptResponse]
) -> None:
    which, label = old[0].key_id, old[0].label
    refused(kmsd, "RetireKey", "INVALID_ARGUMENT", "not the label", key=which, confirm_label="k8s-kek")
    assert ask(kmsd, "RetireKey", key=which, confirm_label=label).key.state == admin.KEY_STATE_ARCHIVED
    assert decrypt(kmsd, old[1]) == SEED


def test_the_write_key_is_never_retired(kmsd: Kmsd) -> None:
    for confirm in ("", "k8s-kek"):
        refusal = refused(
            kmsd,
            "RetireKey",
            "FAILED_PRECONDITION",
            "is the write key",
            key="k8s-kek",
            scan=scan(),
            confirm_label=confirm,
        )
        assert "kmsctl rotate" in refusal.hint


def test_a_pair_is_retired_together(kmsd: Kmsd) -> None:
    label = fresh("pair")
    make(kmsd, label, admin.KEY_TYPE_PAIR)
    answer = ask(kmsd, "RetireKey", key=label, scan=scan(uses=present(kmsd)))
    found = ask(kmsd, "GetKey", key=answer.key.key_id)
    assert found.key.label.startswith(f"{label}.retired@")
    assert found.companion.label == f"{found.key.label}.hmac"


def test_what_does_not_decrypt_cannot_be_retired(kmsd: Kmsd) -> None:
    hmac = make(kmsd, type=admin.KEY_TYPE_HMAC)
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "does not decrypt", key=hmac.label, confirm_label=hmac.label)


def test_a_label_with_no_room_behind_it_is_refused(kmsd: Kmsd) -> None:
    made = make(kmsd, "z" * 250)
    refused(kmsd, "RetireKey", "FAILED_PRECONDITION", "is too long", key=made.label, confirm_label=made.label)


def test_there_is_nothing_to_revert_to_before_a_rotation(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    make(kmsd, "other")
    refusal = refused(kmsd, "RevertKey", "NOT_FOUND", "had the label 'k8s-kek' before")
    assert "kmsctl rotate" in refusal.hint
    refused(kmsd, "RevertKey", "NOT_FOUND", "had the label 'k8s-kek' before", dry_run=True)


def test_a_revert_makes_a_new_key_and_says_what_it_does_not_undo(kmsd: Kmsd) -> None:
    good = kmsd.v2("Status").key_id
    bad = ask(kmsd, "RotateKey").new_key
    sealed = encrypt(kmsd)
    before = state(kmsd)
    told = ask(kmsd, "RevertKey", dry_run=True)
    assert not told.reverted
    assert told.previous_key.key_id == good
    assert state(kmsd) == before
    done = ask(kmsd, "RevertKey", from_key_id=bad.key_id)
    assert done.reverted
    assert (done.old_key.key_id, done.previous_key.key_id) == (bad.key_id, good)
    assert done.new_key.key_id not in (good, bad.key_id)
    assert bad.key_id in done.not_undone[0]
    assert good in done.not_undone[1]
    again = ask(kmsd, "RevertKey", from_key_id=bad.key_id)
    assert not again.reverted
    assert again.new_key.key_id == done.new_key.key_id == kmsd.v2("Status").key_id
    assert again.previous_key.key_id == good, "not the one that was reverted"
    assert decrypt(kmsd, sealed) == SEED


@pytest.mark.parametrize("method", ["RotateKey", "RevertKey"])
@pytest.mark.parametrize("label", ["other", "x" * 100_000])
def test_only_the_write_label_moves(kmsd: Kmsd, method: str, label: str) -> None:
    refused(kmsd, method, "INVALID_ARGUMENT", "writes with the label 'k8s-kek'", label=label)


@pytest.mark.parametrize("token", ["nowhere", "x" * 100_000])
def test_a_rotation_onto_a_token_that_there_is_not_is_refused(kmsd: Kmsd, token: str) -> None:
    refused(kmsd, "RotateKey", "NOT_FOUND", "no token called", token=token)


def test_a_rotation_by_hand_is_seen_at_once(kmsd: Kmsd) -> None:
    """Whatever another program does to the labels, a call finds what the token holds now."""
    made = make(kmsd)
    kmsd.soft.relabel(made.label, LONG_AGO)
    wait_for(lambda: key(kmsd, made.key_id).label == LONG_AGO)
    retired = ask(kmsd, "RetireKey", key=LONG_AGO, scan=scan(uses=present(kmsd))).key
    assert retired.state == admin.KEY_STATE_ARCHIVED


def test_a_scan_of_another_etcd_shows_nothing(kmsd: Kmsd) -> None:
    """Nothing in it names a key that this kmsd has."""
    made = make(kmsd)
    refused(
        kmsd, "RetireKey", "FAILED_PRECONDITION", "was written by a key of these tokens", key=made.label, scan=scan()
    )
