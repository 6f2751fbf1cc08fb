"""Tokens that cannot be used as they are: kmsd is up, says why and what to do, and is well once it is done."""

from __future__ import annotations

import ctypes.util
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rpc.known import AES128, AES192, WRITE
from tests.rpc.refusals import assert_silent, refusal
from tests.tokens import MODULE, PIN, SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
BY_HAND = {"KMSD_KEYS__ADOPT": "never"}
QUICK = {"KMSD_KEYS__REFRESH": "0.2", "KMSD_HEALTH__INTERVAL": "0.5"}


def _round_trip(kmsd: Kmsd) -> str:
    written = kmsd.v2("Encrypt", SEED)
    read = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id))
    assert read.plaintext == SEED.plaintext
    key_id: str = written.key_id
    return key_id


def _down(kmsd: Kmsd, says: str, fix: str) -> None:
    """All APIs answer, and each names the reason; both KMS APIs and the admin API name the fix."""
    wait_for(lambda: says in kmsd.v2("Status").healthz)
    healthz = kmsd.v2("Status").healthz
    assert fix in healthz
    assert "\n" not in healthz
    refused = refusal(kmsd.v2, "Encrypt", SEED)
    assert refused.code in ("FAILED_PRECONDITION", "UNAVAILABLE", "PERMISSION_DENIED")
    assert says in refused.details
    assert fix in refused.details
    seen = kmsd.status()
    assert seen.state == admin.SERVING_STATE_DOWN
    assert says in seen.healthz
    assert fix in seen.hint
    assert any(problem.fatal and says in problem.message for problem in seen.problems)
    assert_silent(kmsd.log_text() + healthz + refused.details, PIN.encode(), SEED.plaintext)


def _wrong_pin(token: SoftToken) -> str:
    wrong = "4321-wrong"
    token.pin_file.write_text(wrong + "\n")
    return wrong


def test_a_wrong_pin_is_never_tried_twice(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    wrong = _wrong_pin(token)
    before = token.logins()
    kmsd = start_kmsd(environment=QUICK)
    _down(kmsd, "refused the PIN (CKR_PIN_INCORRECT)", "SIGHUP")
    # Everything that could make it try again: time, health checks, requests, an operator's looks.
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        assert "refused the PIN" in kmsd.v2("Status").healthz
        refusal(kmsd.v2, "Encrypt", SEED)
        refusal(kmsd.admin, "ListKeys")
        refusal(kmsd.admin, "GenerateKey", admin.GenerateKeyRequest(label="x"))
        slots = kmsd.admin("ListSlots").slots
    assert token.logins() == before + 1
    assert any("wrong user PIN" in warning for slot in slots for warning in slot.pin_warnings)
    told = [
        line for line in kmsd.log_lines() if line["event"] != "call" and "refused the PIN" in line.get("reason", "")
    ]
    assert len(told) <= 2
    assert_silent(kmsd.log_text(), wrong.encode())

    # The file is corrected, and kmsd is told.
    token.pin_file.write_text(PIN + "\n")
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGHUP)
    kmsd.wait_ok()
    assert token.logins() == before + 2
    _round_trip(kmsd)


def test_a_reload_without_a_correction_costs_no_attempt(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    _wrong_pin(token)
    before = token.logins()
    kmsd = start_kmsd()
    _down(kmsd, "refused the PIN", "SIGHUP")
    assert kmsd.process is not None
    for _ in range(3):
        kmsd.process.send_signal(signal.SIGHUP)
        _down(kmsd, "refused the PIN", "SIGHUP")
    wait_for(lambda: kmsd.v2("Status").healthz.startswith("token 'kmsd-test' refused the PIN (as before)"))
    assert token.logins() == before + 1


def test_one_login_serves_all_sessions(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    before = token.logins()
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    for _ in range(20):
        _round_trip(kmsd)
    assert kmsd.status().sessions.open == 4
    assert token.logins() == before + 1


def test_without_a_pin_it_says_how_to_give_one(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    before = token.logins()
    flags = ("--provider=softhsm", f"--p11-label={token.label}")
    kmsd = start_kmsd(*flags, default_flags=False)
    _down(kmsd, "needs a PIN and none is configured", "--p11-pin-file")
    assert token.logins() == before


@pytest.mark.parametrize("kind", ["missing", "empty", "no-text"])
def test_a_pin_file_without_a_pin_is_named_and_may_be_filled_later(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, kind: str
) -> None:
    match kind:
        case "missing":
            token.pin_file.unlink()
        case "empty":
            token.pin_file.write_text("\n")
        case _:
            token.pin_file.write_bytes(b"\xff\xfe\n")
    before = token.logins()
    kmsd = start_kmsd("--auto-create")
    _down(kmsd, f"the PIN file {token.pin_file}", "PIN")
    assert token.logins() == before
    token.pin_file.write_text(PIN + "\n")
    kmsd.wait_ok()


def test_a_module_that_is_missing_is_named(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    flags = ("--p11-lib=/nonexistent/libpkcs11.so", f"--p11-label={token.label}")
    kmsd = start_kmsd(*flags, default_flags=False)
    _down(kmsd, "/nonexistent/libpkcs11.so cannot be loaded", "--p11-lib")


@pytest.mark.parametrize("kind", ["text", "another-library"])
def test_a_file_that_is_no_module_is_named(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, short_tmp: Path, kind: str
) -> None:
    path = short_tmp / "libp11.so"
    if kind == "text":
        path.write_text("no library")
    else:
        library = ctypes.util.find_library("c")
        assert library is not None
        path = Path(library)
    kmsd = start_kmsd(f"--p11-lib={path}", f"--p11-label={token.label}", default_flags=False)
    _down(kmsd, str(path), "--p11-lib")


def test_a_module_that_comes_later_is_used(start_kmsd: Callable[..., Kmsd], token: SoftToken, short_tmp: Path) -> None:
    path = short_tmp / "libp11.so"
    kmsd = start_kmsd(
        *(f"--p11-lib={path}", f"--p11-label={token.label}", f"--p11-pin-file={token.pin_file}", "--auto-create"),
        default_flags=False,
    )
    _down(kmsd, f"{path} cannot be loaded", "--p11-lib")
    path.symlink_to(MODULE)
    kmsd.wait_ok()


def test_no_module_at_all_is_said(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd(f"--p11-label={token.label}", default_flags=False)
    _down(kmsd, "no PKCS#11 module is configured", "--p11-lib")


def test_a_token_that_is_missing_is_waited_for(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    flags = ("--provider=softhsm", "--p11-label=later", f"--p11-pin-file={token.pin_file}", "--auto-create")
    kmsd = start_kmsd(*flags, default_flags=False)
    _down(kmsd, "there is no token labelled 'later'", "--p11-label")
    assert f"'{token.label}' in slot " in kmsd.v2("Status").healthz
    assert [slot.token_label for slot in kmsd.admin("ListSlots").slots if slot.token_label] == [token.label]
    token.init_token("later")
    kmsd.wait_ok()
    assert kmsd.status().token.label == "later"
    _round_trip(kmsd)


def test_a_slot_that_is_not_there_is_said(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    flags = ("--provider=softhsm", "--p11-slot=123", f"--p11-pin-file={token.pin_file}")
    kmsd = start_kmsd(*flags, default_flags=False)
    _down(kmsd, "there is no initialised token in slot 123", "--p11-slot")


def test_of_two_tokens_with_one_label_a_slot_chooses(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.init_token(token.label)
    first = start_kmsd("--auto-create", name="a")
    _down(first, f"2 tokens are labelled '{token.label}' (slots ", "--p11-slot")
    slots = [slot.slot_id for slot in first.admin("ListSlots").slots if slot.token_label == token.label]
    assert len(slots) == 2
    assert all(str(slot) in first.v2("Status").healthz for slot in slots)
    first.stop()
    for name, slot in zip("bc", slots, strict=True):
        kmsd = start_kmsd(f"--p11-slot={slot}", "--auto-create", name=name).wait_ok()
        assert kmsd.status().token.slot_id == slot
        assert kmsd.status().keys == 1
        _round_trip(kmsd)


def test_a_slot_whose_token_has_another_label_is_refused(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd(name="a")
    wait_for(lambda: kmsd.status().token.up)
    slot = kmsd.status().token.slot_id
    flags = ("--provider=softhsm", f"--p11-slot={slot}", "--p11-label=mine", f"--p11-pin-file={token.pin_file}")
    other = start_kmsd(*flags, name="b", default_flags=False)
    _down(other, f"slot {slot} holds token '{token.label}', not 'mine'", "--p11-label")


def test_a_key_without_cka_id_is_adopted(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.import_aes("k8s-kek", WRITE.value, None)
    kmsd = start_kmsd(environment=BY_HAND)
    _down(kmsd, "key 'k8s-kek' on token 'kmsd-test' cannot serve: it has no CKA_ID", "kmsctl keys adopt k8s-kek")
    (key,) = kmsd.admin("ListKeys").keys
    assert key.state == admin.KEY_STATE_UNUSABLE
    assert (key.key_id, key.key_id_sha256) == ("", "")
    assert "CKA_ID" in key.unusable_reason
    assert "kmsctl keys adopt" in key.unusable_hint

    adopted = kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label="k8s-kek")).key
    assert adopted.state == admin.KEY_STATE_WRITE
    assert kmsd.v2("Status").healthz == "ok"
    assert _round_trip(kmsd) == adopted.key_id
    refused = refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label="k8s-kek"))
    assert refused.code == "FAILED_PRECONDITION"
    assert adopted.key_id in refused.details


def test_a_key_is_adopted_under_an_id_of_the_operators_choice(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.objects(AES128.step)
    token.import_aes("k8s-kek", WRITE.value, None)
    kmsd = start_kmsd(environment=BY_HAND)
    for key_id, code in ((AES128.key_id, "ALREADY_EXISTS"), ("two words", "INVALID_ARGUMENT")):
        refused = refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label="k8s-kek", key_id=key_id))
        assert refused.code == code
    assert refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label="nobody")).code == "NOT_FOUND"
    kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label="k8s-kek", key_id="my-id"))
    assert kmsd.v2("Status").key_id == _round_trip(kmsd) == "my-id"


def test_two_keys_with_one_id_are_refused_until_one_is_gone(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.objects(WRITE.step, AES192.step)
    token.import_aes("twin", AES128.value, WRITE.key_id.encode())
    kmsd = start_kmsd(environment=QUICK)
    _down(kmsd, "key 'k8s-kek' on token 'kmsd-test' cannot serve: 2 keys have this key id", "another CKA_ID")
    states = {key.label: key.state for key in kmsd.admin("ListKeys").keys}
    assert states == {
        "k8s-kek": admin.KEY_STATE_UNUSABLE,
        "twin": admin.KEY_STATE_UNUSABLE,
        AES192.label: admin.KEY_STATE_READABLE,
    }
    token.destroy("twin")
    kmsd.wait_ok()
    assert _round_trip(kmsd) == WRITE.key_id


def test_a_write_key_that_was_destroyed_is_said_to_be_gone(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.objects(WRITE.step, AES192.step)
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    written = kmsd.v2("Encrypt", SEED)
    token.destroy("k8s-kek")
    _down(kmsd, "there is no key labelled 'k8s-kek'", "kmsctl keygen k8s-kek")
    refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id))
    assert refused.code == "NOT_FOUND"
    assert "restore the key" in refused.details
    # The key comes back, as from a backup.
    token.objects(WRITE.step)
    kmsd.wait_ok()
    read = kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id))
    assert read.plaintext == SEED.plaintext


def test_a_label_or_an_id_that_is_taken_is_refused(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.objects(WRITE.step)
    kmsd = start_kmsd().wait_ok()
    for request, code, says in (
        (admin.GenerateKeyRequest(label="k8s-kek"), "ALREADY_EXISTS", "labelled 'k8s-kek' already"),
        (admin.GenerateKeyRequest(label="x", key_id=WRITE.key_id), "ALREADY_EXISTS", "with key id"),
        (admin.GenerateKeyRequest(label=""), "INVALID_ARGUMENT", "a label must have 1 to 255 bytes"),
        (admin.GenerateKeyRequest(label="a\nb"), "INVALID_ARGUMENT", "no control characters"),
        (admin.GenerateKeyRequest(label="x" * 256), "INVALID_ARGUMENT", "a label must have 1 to 255 bytes"),
        (admin.GenerateKeyRequest(label="x", bits=100), "INVALID_ARGUMENT", "cannot have 100 bits"),
        (admin.GenerateKeyRequest(label="x", key_id="a b"), "INVALID_ARGUMENT", "no spaces"),
        (
            admin.GenerateKeyRequest(label="x", type=admin.KEY_TYPE_OTHER),
            "INVALID_ARGUMENT",
            "the type of a key must be",
        ),
    ):
        refused = refusal(kmsd.admin, "GenerateKey", request)
        assert refused.code == code
        assert says in refused.details
    answer = kmsd.admin("GenerateKey", admin.GenerateKeyRequest(label="k8s-kek", if_not_exists=True))
    assert (answer.created, answer.key.key_id) == (False, WRITE.key_id)
    assert kmsd.status().keys == 1
