"""One kmsd rotates on a real token: what moves, what stays readable, what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, decrypt, encrypt, keys, labelled, rotate
from tests.tokens import PIN, SoftToken

OLD = re.compile(r"k8s-kek@\d{8}T\d{6}Z")


def test_the_label_moves_to_a_new_key_and_the_old_one_reads(kmsd: Kmsd) -> None:
    before = encrypt(kmsd, b"written before")
    done = rotate(kmsd)
    assert done.rotated
    assert done.old_key.key_id == before.key_id
    assert OLD.fullmatch(done.old_key.label)
    assert done.new_key.label == "k8s-kek"
    assert [step.action for step in done.steps] == ["generate", "test", "relabel", "relabel"]
    assert all(step.done for step in done.steps)
    assert done.new_key.created_unix_ms > done.old_key.created_unix_ms
    after = encrypt(kmsd, b"written after")
    assert after.key_id == done.new_key.key_id == kmsd.v2("Status").key_id
    assert decrypt(kmsd, before) == b"written before"
    assert decrypt(kmsd, after) == b"written after"
    assert assert_at_rest(kmsd).key_id == after.key_id
    assert not kmsd.status().problems
    assert kmsd.status().following.previous_key_id == before.key_id


def test_it_needs_no_restart_and_survives_one(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    before = encrypt(kmsd, b"x")
    new = rotate(kmsd).new_key
    kmsd.stop()
    again = start_kmsd().wait_ok()
    assert again.v2("Status").key_id == new.key_id
    assert decrypt(again, before) == b"x"


def test_a_repeated_call_rotates_once(kmsd: Kmsd) -> None:
    old = kmsd.v2("Status").key_id
    first = rotate(kmsd, from_key_id=old)
    second = rotate(kmsd, from_key_id=old)
    assert (first.rotated, second.rotated) == (True, False)
    assert second.new_key.key_id == first.new_key.key_id
    assert second.old_key.key_id == old
    assert len(keys(kmsd)) == 2


def test_a_dry_run_tells_the_steps_and_changes_nothing(kmsd: Kmsd) -> None:
    before = keys(kmsd)
    told = rotate(kmsd, dry_run=True)
    assert not told.rotated
    assert not told.HasField("new_key")
    assert [step.action for step in told.steps] == ["generate", "test", "relabel", "relabel"]
    assert not any(step.done for step in told.steps)
    assert keys(kmsd) == before


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"label": "other"}, grpc.StatusCode.INVALID_ARGUMENT, "writes with the label 'k8s-kek'"),
        ({"token": "nowhere"}, grpc.StatusCode.NOT_FOUND, "no token called 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused(kmsd: Kmsd, fields: dict[str, str], code: grpc.StatusCode, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        rotate(kmsd, **fields)
    assert caught.value.code() is code
    assert words in (caught.value.details() or "")
    assert len(keys(kmsd)) == 1


def test_without_a_write_key_there_is_nothing_to_rotate(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd()
    with pytest.raises(grpc.RpcError) as caught:
        rotate(kmsd)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "there is no key labelled 'k8s-kek'" in (caught.value.details() or "")


def test_a_pair_moves_together(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd()
    kmsd.admin("GenerateKey", admin.GenerateKeyRequest(label="k8s-kek", type=admin.KEY_TYPE_PAIR))
    old = assert_at_rest(kmsd)
    new = rotate(kmsd).new_key
    by_label = {key.label: key for key in keys(kmsd)}
    (archived,) = [label for label in by_label if OLD.fullmatch(label)]
    assert set(by_label) == {"k8s-kek", "k8s-kek.hmac", archived, f"{archived}.hmac"}
    assert by_label["k8s-kek.hmac"].key_id == new.key_id
    assert by_label[f"{archived}.hmac"].key_id == old.key_id
    assert new.key_id != old.key_id


@pytest.mark.parametrize("labels", [["k8s-kek.pending"], ["k8s-kek", "k8s-kek"]])
def test_what_another_kmsd_left_is_finished(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, labels: list[str]
) -> None:
    """From the token alone, at the next look."""
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    before = encrypt(kmsd, b"x")
    for number, label in enumerate(labels[-1:]):
        token.import_aes(label, bytes([number]) * 32, f"ffffffff-ffff-7fff-bfff-00000000000{number}".encode())
    wait_for(lambda: kmsd.v2("Status").key_id.startswith("ffffffff"))
    wait_for(lambda: len(labelled(keys(kmsd))) == 1 and not labelled(keys(kmsd), "k8s-kek.pending"))
    assert assert_at_rest(kmsd).key_id.startswith("ffffffff")
    assert decrypt(kmsd, before) == b"x"
    assert not kmsd.status().problems


def test_a_rotation_that_was_begun_is_finished_instead_of_a_second(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "3600", "KMSD_HEALTH__INTERVAL": "300"})
    kmsd.wait_ok()
    time.sleep(1.0)  # the looks that the making of a key brings about are over, or kmsd would finish it by itself
    token.import_aes("k8s-kek.pending", bytes(32), b"ffffffff-ffff-7fff-bfff-000000000001")
    done = rotate(kmsd)
    assert done.rotated
    assert done.new_key.key_id == "ffffffff-ffff-7fff-bfff-000000000001"
    assert len(keys(kmsd)) == 2
    assert_at_rest(kmsd)


def test_a_new_key_is_newer_than_one_from_a_node_whose_clock_is_ahead(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"f0000000-0000-7fff-bfff-000000000001")
    kmsd = start_kmsd().wait_ok()
    done = rotate(kmsd)
    assert done.new_key.key_id > "f0000000-0000-7"
    assert assert_at_rest(kmsd).key_id == done.new_key.key_id


def test_a_pending_key_that_cannot_decrypt_never_takes_over(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    old = kmsd.v2("Status").key_id
    token.objects(
        {
            "do": "import",
            "type": "aes",
            "label": "k8s-kek.pending",
            "value": bytes(32).hex(),
            "id": b"ffffffff-ffff-7fff-bfff-000000000001".hex(),
            "encrypt": "no",
        }
    )
    wait_for(lambda: len(keys(kmsd)) == 2)
    assert kmsd.v2("Status").key_id == old
    assert [key.label for key in keys(kmsd)] == ["k8s-kek", "k8s-kek.pending"]


def test_from_one_token_to_another(short_tmp: Path, start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    """Old HSM and new HSM side by side: rotating onto the other token is the same command."""
    first = start_kmsd("--auto-create", name="first").wait_ok()
    before = encrypt(first, b"on the old one")
    first.stop()
    token.init_token("new")
    config = short_tmp / "kmsd.toml"
    config.write_text(
        "\n".join(
            f'[[tokens]]\nname = "{name}"\nprovider = "softhsm"\nlabel = "{label}"\npin_file = "{token.pin_file}"\n'
            f"write = {write}"
            for name, label, write in (("old", token.label, "false"), ("fresh", "new", "true"))
        )
    )
    kmsd = start_kmsd(f"--config={config}", name="both", default_flags=False).wait_ok()
    assert kmsd.v2("Status").key_id == before.key_id
    done = rotate(kmsd)
    assert (done.old_key.token, done.new_key.token) == ("old", "fresh")
    assert (done.old_key.token_label, done.new_key.token_label) == (token.label, "new")
    after = encrypt(kmsd, b"on the new one")
    assert decrypt(kmsd, before) == b"on the old one"
    assert decrypt(kmsd, after) == b"on the new one"
    assert_at_rest(kmsd)
    assert {each.name: each.write for each in kmsd.status().tokens} == {"old": False, "fresh": True}
    assert all(each.token.up for each in kmsd.status().tokens)
    back = kmsd.admin("RevertKey", admin.RevertKeyRequest())
    assert back.reverted
    assert back.new_key.token == "old"
    assert back.new_key.key_id not in (before.key_id, after.key_id), "a key id never comes back"
    assert back.previous_key.key_id == before.key_id
    assert len(back.not_undone) == 3
    assert decrypt(kmsd, before) == b"on the old one"
    assert decrypt(kmsd, after) == b"on the new one"
    assert PIN not in kmsd.log_text()


def test_what_the_k8s_kms_plugin_wrote_stays_readable(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    """A key as k8s-kms-plugin makes it (UUID text that tells no time), data with `kid` = label."""
    token.import_aes("k8s-kek", bytes(range(32)), b"5d8b2a3e-8a2f-4c1e-9d7e-0123456789ab")
    old = start_kmsd(environment={"KMSD_KEYS__WRITE_FORMAT": "k8s-kms-plugin"}, name="old").wait_ok()
    before = encrypt(old, b"as k8s-kms-plugin writes")
    old.stop()
    kmsd = start_kmsd(name="new").wait_ok()
    assert decrypt(kmsd, before) == b"as k8s-kms-plugin writes"
    for _ in range(2):
        rotate(kmsd)
        assert decrypt(kmsd, before) == b"as k8s-kms-plugin writes"
    assert len(keys(kmsd)) == 3
