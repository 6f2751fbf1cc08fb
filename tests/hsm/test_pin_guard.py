"""A wrong PIN is tried once: across restarts, whatever became of what was remembered, and with no trace of the PIN."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forkserver
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.rpc.refusals import refusal
from tests.tokens import PIN

WRONG = "4321-wrong"
QUICK = {"KMSD_HEALTH__INTERVAL": "0.3", "KMSD_KEYS__REFRESH": "0.3"}


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    token = make_chaos(short_tmp / "chaos")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    token.pin_file.write_text(WRONG + "\n")
    return token


@pytest.fixture
def start(start_kmsd: Callable[..., Kmsd], chaos: ChaosToken) -> Callable[[], Kmsd]:
    def begin() -> Kmsd:
        kmsd = start_kmsd(*chaos.flags, default_flags=False, environment={**chaos.environment, **QUICK})
        wait_for(lambda: kmsd.v2("Status").healthz.startswith("token 'kmsd-test' refused the PIN"))
        return kmsd

    return begin


def _kept(kmsd: Kmsd) -> Path:
    return kmsd.folder / "state" / "pins-refused.json"


def test_ten_restarts_cost_one_attempt(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    for number in range(10):
        kmsd = start()
        assert ("(as before)" in kmsd.v2("Status").healthz) is bool(number)
        assert kmsd.status().problems[0].fatal
        # Some are killed, as by a watchdog.
        kmsd.stop(signal.SIGKILL if number % 3 == 0 else signal.SIGTERM)
    assert chaos.calls()["C_Login"] == 1

    kept = _kept(kmsd).read_text()
    assert stat.S_IMODE(_kept(kmsd).stat().st_mode) == 0o600
    assert set(json.loads(kept)["kmsd-test"]) == {"salt", "refused"}
    for path in (path for path in kmsd.folder.rglob("*") if path.is_file()):
        assert WRONG.encode() not in path.read_bytes(), path

    # The right PIN is another one: it is tried, and what was remembered goes.
    chaos.pin_file.write_text(PIN + "\n")
    kmsd.start().wait_ok()
    assert chaos.calls()["C_Login"] == 2
    assert json.loads(_kept(kmsd).read_text()) == {}


def test_nothing_that_happens_in_one_process_tries_it_again(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    kmsd = start()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        refusal(kmsd.admin, "ListKeys")
        kmsd.admin("ListSlots")
        kmsd.admin("Diagnose", None, 60.0)
    assert chaos.calls()["C_Login"] == 1


def test_unlock_tries_it_once_more_and_is_remembered_too(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    kmsd = start()
    for attempts in (2, 3):
        done = forkserver.run(
            [KMSCTL, f"--target=unix://{kmsd.admin_socket}", "unlock", "kmsd-test"], capture_output=True, check=False
        )
        assert done.returncode == 4
        assert chaos.calls()["C_Login"] == attempts
    kmsd.stop()
    kmsd = start()
    assert chaos.calls()["C_Login"] == 3
    # The token is mended so that the PIN which was refused is right; only an operator can know.
    chaos.pin_file.write_text(PIN + "\n")
    forkserver.run(
        [KMSCTL, f"--target=unix://{kmsd.admin_socket}", "unlock", "kmsd-test"], capture_output=True, check=True
    )
    kmsd.wait_ok()
    assert json.loads(_kept(kmsd).read_text()) == {}


def test_without_what_was_remembered_each_process_tries_it_once(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    for attempts in (1, 2, 3):
        kmsd = start()
        time.sleep(1)
        kmsd.stop()
        assert chaos.calls()["C_Login"] == attempts
        shutil.rmtree(kmsd.folder / "state")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"[" * 5000, b'{"kmsd-test": 7}', b'{"kmsd-test": {"salt": 1}}'])
def test_a_damaged_file_costs_one_attempt_and_is_written_anew(
    start: Callable[[], Kmsd], chaos: ChaosToken, damage: bytes
) -> None:
    start().stop()
    kmsd = start()
    kmsd.stop()
    _kept(kmsd).write_bytes(damage)
    for _ in range(2):
        start().stop()
    assert chaos.calls()["C_Login"] == 2
    assert set(json.loads(_kept(kmsd).read_text())) == {"kmsd-test"}


def test_where_it_cannot_be_remembered_status_says_so(start: Callable[[], Kmsd], chaos: ChaosToken) -> None:
    kmsd = start()
    kmsd.stop()
    _kept(kmsd).unlink()
    _kept(kmsd).mkdir()  # nothing can be put in its place, not even by root
    for attempts in (2, 3):
        kmsd = start()
        (problem,) = [each for each in kmsd.status().problems if "cannot be remembered" in each.message]
        assert "each start of kmsd tries it once" in problem.message
        assert "state.dir" in problem.hint
        time.sleep(1)
        kmsd.stop()
        assert chaos.calls()["C_Login"] == attempts


def test_a_file_that_others_may_write_is_not_believed_and_named(start: Callable[[], Kmsd]) -> None:
    kmsd = start()
    kmsd.stop()
    _kept(kmsd).chmod(0o666)
    kmsd.start()
    assert any("others may write to it" in line.get("reason", "") + line["event"] for line in kmsd.log_lines())
    wait_for(lambda: stat.S_IMODE(_kept(kmsd).stat().st_mode) == 0o600)  # written anew by the second refusal
