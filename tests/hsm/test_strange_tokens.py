"""Tokens that are within the standard, or near it, and unlike SoftHSM: few sessions, logins that end, attributes and
slots that are not told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import forkserver
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.rpc.refusals import refusal, told

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {"KMSD_HEALTH__INTERVAL": "0.3", "KMSD_KEYS__REFRESH": "0.5"}
BELIEVED_AFTER = 10.0
"""Seconds from a login until an operation is believed that says that it is gone, although random numbers work."""

Start = Callable[..., Kmsd]


def _make(folder: Path) -> ChaosToken:
    token = make_chaos(folder / "chaos")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    return token


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return _make(short_tmp)


@pytest.fixture
def start(start_kmsd: Start, chaos: ChaosToken) -> Callable[[], Kmsd]:
    def begin() -> Kmsd:
        return start_kmsd(*chaos.flags, default_flags=False, environment={**chaos.environment, **QUICK})

    return begin


def _decrypt(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def _round_trip(kmsd: Kmsd) -> str:
    """Code of the first call that fails; else OK."""
    try:
        assert _decrypt(kmsd, kmsd.v2("Encrypt", SEED)) == SEED.plaintext
    except grpc.RpcError as error:
        return told(error).code
    return "OK"


def _doctor(kmsd: Kmsd) -> dict[str, Any]:
    return {check.name: check for check in kmsd.admin("Diagnose", None, 60.0).checks}


def test_already_logged_in_is_success_once_the_session_says_so(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    chaos.tell("C_Login rv=0x100 done")
    kmsd = start().wait_ok()
    assert _round_trip(kmsd) == "OK"
    kmsd.keygen("another")
    assert not [name for name, check in _doctor(kmsd).items() if check.outcome == "failed"]


def test_already_logged_in_is_no_success_if_the_session_is_nobodys(
    start: Callable[[], Kmsd], chaos: ChaosToken
) -> None:
    chaos.tell("C_Login rv=0x100")
    kmsd = start()
    wait_for(lambda: "CKR_USER_ALREADY_LOGGED_IN" in kmsd.v2("Status").healthz)
    chaos.tell()
    kmsd.wait_ok()


_GONE = {
    "not logged in": [f"C_{each}Init rv=0x101 until=C_Login" for each in ("Encrypt", "Decrypt", "Sign")],
    "device error": [f"C_{each}Init rv=0x30 until=C_Login" for each in ("Encrypt", "Decrypt", "Sign")],
    "device removed": [f"C_{each}Init rv=0x32 until=C_Login" for each in ("Encrypt", "Decrypt", "Sign")],
    "session closed": [f"C_{each}Init rv=0xb0 until=C_Login" for each in ("Encrypt", "Decrypt", "Sign")],
    "while it encrypts": ["C_Encrypt rv=0x101 until=C_Login", "C_Decrypt rv=0x101 until=C_Login"],
    "logged out": ["C_EncryptInit logout once"],
    "all sessions closed": ["C_EncryptInit close once"],
}


@pytest.fixture(scope="module")
def believed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Kmsd, ChaosToken]]]:
    """A kmsd for each case, all of them logged in long enough: the wait is the same for one and for many."""
    made = {}
    with ExitStack() as running:
        for name in (*_GONE, "another slot"):
            folder = tmp_path_factory.mktemp("k")
            token = _make(folder)
            environment = {**token.environment, **QUICK}
            kmsd = Kmsd(folder, token, token.flags, environment, default_flags=False)
            made[name] = running.enter_context(kmsd.start()), token
        for kmsd, _ in made.values():
            kmsd.wait_ok()
        time.sleep(BELIEVED_AFTER)
        yield made


@pytest.mark.parametrize("name", _GONE)
def test_a_login_that_has_gone_is_made_anew_although_random_numbers_work(
    believed: dict[str, tuple[Kmsd, ChaosToken]], name: str
) -> None:
    kmsd, chaos = believed[name]
    sealed = kmsd.v2("Encrypt", SEED)
    (before,) = kmsd.hosts()
    chaos.forget_calls()
    chaos.tell(*_GONE[name])
    began = time.monotonic()
    wait_for(lambda: before not in kmsd.hosts() and _round_trip(kmsd) == "OK")
    assert time.monotonic() - began < 5
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    kmsd.wait_ok()
    assert chaos.calls()["C_Login"] == 1


@pytest.mark.parametrize(
    ("most", "shared"),
    [*((most, "") for most in (1, 2, 3, 4, 5)), *((most, "shared") for most in (1, 2, 3, 5, 6, 8))],
)
def test_a_token_with_few_sessions_serves_makes_keys_and_rotates(
    start: Callable[[], Kmsd], chaos: ChaosToken, most: int, shared: str
) -> None:
    chaos.tell(f"sessions {most} {shared}")
    kmsd = start().wait_ok()
    assert kmsd.status().sessions.open == min(4, max(1, most - 1))
    sealed = kmsd.v2("Encrypt", SEED)
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    kmsd.keygen("another")
    for command in (["rotate", "--yes"], ["keys", "relabel", "another", "renamed"]):
        done = forkserver.run(
            [KMSCTL, f"--target=unix://{kmsd.admin_socket}", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    kmsd.wait_ok()
    assert kmsd.v2("Status").key_id != sealed.key_id
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    assert _round_trip(kmsd) == "OK"
    wait_for(lambda: kmsd.status().sessions.open == min(4, max(1, most - 1)))
    assert chaos.calls()["C_Login"] > 1  # hosts were replaced after keys were made


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_doctor_tells_no_session_now_from_does_not_work(
    start: Callable[[], Kmsd], chaos: ChaosToken, most: int
) -> None:
    chaos.tell(f"sessions {most}")
    kmsd = start().wait_ok()
    checks = _doctor(kmsd)
    failed = {name: check.seen for name, check in checks.items() if check.outcome == "failed"}
    assert not failed
    assert "CKR_SESSION_COUNT" in checks["sessions"].seen
    assert _round_trip(kmsd) == "OK"


@pytest.mark.parametrize("how", ["absent", "stops"])
def test_a_length_that_is_not_told_hides_nothing_else(start: Callable[[], Kmsd], chaos: ChaosToken, how: str) -> None:
    chaos.tell(f"attribute 0x161 {how}")
    kmsd = start().wait_ok()
    (key,) = kmsd.admin("ListKeys").keys
    assert (key.label, key.state, key.extractable) == ("k8s-kek", admin.KEY_STATE_WRITE, False)
    assert _round_trip(kmsd) == "OK"
    made = kmsd.keygen("another")
    assert (made.label, made.state, made.bits) == ("another", admin.KEY_STATE_READABLE, 256)


def test_a_slot_that_is_broken_hides_no_other(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    chaos.tell("slots broken")
    kmsd = start().wait_ok()
    slots = kmsd.admin("ListSlots").slots
    assert [slot.token_label for slot in slots if slot.token_label] == [chaos.label]
    assert any("broken (C_GetSlotInfo: CKR_DEVICE_ERROR)" in slot.description for slot in slots)


def test_a_slot_that_gets_another_number_is_found_again(believed: dict[str, tuple[Kmsd, ChaosToken]]) -> None:
    kmsd, chaos = believed["another slot"]
    before, (host,) = kmsd.status().token.slot_id, kmsd.hosts()
    chaos.tell("slots shift=7")
    # It needs a session that is opened now.
    refused = refusal(kmsd.keygen, "another")
    assert refused.retryable
    assert "CKR_SLOT_ID_INVALID" in refused.details
    wait_for(lambda: kmsd.status().token.slot_id == before + 7)
    kmsd.wait_ok()
    assert _round_trip(kmsd) == "OK"
    wait_for(lambda: host not in kmsd.hosts())
    kmsd.keygen("another")


@pytest.mark.parametrize("label", ["k8s-kek", "another"])
def test_a_key_that_shows_twice_until_the_module_starts_anew_was_made_all_the_same(
    start: Callable[[], Kmsd], chaos: ChaosToken, label: str
) -> None:
    chaos.destroy("k8s-kek")
    kmsd = start()
    chaos.tell("C_FindObjects twice")
    assert kmsd.keygen(label).label == label
    assert len(kmsd.admin("ListKeys").keys) == 1
    if label == "another":
        kmsd.keygen("k8s-kek")
    kmsd.wait_ok()
    assert _round_trip(kmsd) == "OK"


def test_another_program_s_key_that_shows_twice_serves_once_the_module_has_started_anew(
    start: Callable[[], Kmsd], chaos: ChaosToken
) -> None:
    chaos.destroy("k8s-kek")
    kmsd = start()
    chaos.tell("C_FindObjects twice")
    chaos.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd.wait_ok()
    assert _round_trip(kmsd) == "OK"


def test_two_keys_that_differ_in_nothing_are_looked_at_anew_once_and_stay_a_problem(
    start: Callable[[], Kmsd], chaos: ChaosToken
) -> None:
    kmsd = start().wait_ok()
    sealed = kmsd.v2("Encrypt", SEED)
    chaos.forget_calls()
    for _ in range(2):
        chaos.import_aes("another", bytes(32), b"the-same-id")

    def refused() -> bool:
        return [key.unusable_reason for key in kmsd.admin("ListKeys").keys].count("2 keys have this key id") == 2

    wait_for(refused)
    time.sleep(2.0)
    assert refused()
    assert chaos.calls()["C_Initialize"] == 1
    assert _decrypt(kmsd, sealed) == SEED.plaintext
