"""The module that misbehaves does what it is told, so that tests that rely on it test something."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos import ChaosToken, make_chaos
from tests.hsm import asking
from tests.tokens import PIN


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    token = make_chaos(short_tmp / "hsm")
    token.import_aes("k", bytes(range(32)), b"id")
    return token


def _ask(chaos: ChaosToken, *steps: dict[str, str]) -> list[object]:
    return asking.ask(chaos.module, chaos.label, PIN, chaos.environment, *steps)


RANDOM = {"do": "random"}
ENCRYPT = {"do": "encrypt", "id": "id"}


def test_without_a_word_it_behaves_and_writes_down_what_was_called(chaos: ChaosToken) -> None:
    assert _ask(chaos, RANDOM, ENCRYPT) == [{"bytes": 16}, {"bytes": 48}]
    calls = chaos.calls()
    assert calls["C_GenerateRandom"] == calls["C_Encrypt"] == calls["C_Login"] == 1
    assert calls["C_Decrypt"] == 0
    chaos.forget_calls()
    assert not chaos.calls()


def test_a_function_fails_as_told_and_as_often_as_told(chaos: ChaosToken) -> None:
    chaos.tell("C_GenerateRandom rv=0x30 after=1 count=2")
    lost = {"error": "C_GenerateRandom: CKR_DEVICE_ERROR"}
    assert _ask(chaos, RANDOM, RANDOM, RANDOM, RANDOM, ENCRYPT) == [
        *({"bytes": 16}, lost, lost),
        *({"bytes": 16}, {"bytes": 48}),
    ]
    assert chaos.calls()["C_GenerateRandom"] == 4


def test_the_last_line_that_fits_counts(chaos: ChaosToken) -> None:
    chaos.tell("C_Encrypt rv=0x5", "C_Encrypt rv=0x31")
    assert _ask(chaos, ENCRYPT) == [{"error": "C_Encrypt: CKR_DEVICE_MEMORY"}]


def test_what_is_told_meanwhile_is_heard(chaos: ChaosToken) -> None:
    steps = [RANDOM, {"do": "wait"}, RANDOM, ENCRYPT]
    with asking.holding(chaos.module, chaos.label, PIN, chaos.environment, *steps) as held:
        chaos.tell("C_GenerateRandom rv=0x32")
    assert held.answers[2:] == [{"error": "C_GenerateRandom: CKR_DEVICE_REMOVED"}, {"bytes": 48}]


def test_a_hang_lasts_until_another_word(chaos: ChaosToken) -> None:
    steps = [{"do": "wait"}, RANDOM]
    with asking.holding(chaos.module, chaos.label, PIN, chaos.environment, *steps) as held:
        chaos.tell("C_GenerateRandom hang")
        held.go_on()
        until = time.monotonic() + 20
        while not chaos.calls()["C_GenerateRandom"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert held.running
        chaos.tell()
    assert held.answers[-1] == {"bytes": 16}


def test_a_crash_is_one(chaos: ChaosToken) -> None:
    chaos.tell("C_GenerateRandom crash")
    with pytest.raises(AssertionError, match=str(-signal.SIGSEGV)):
        _ask(chaos, RANDOM)


def test_a_word_that_is_not_known_is_not_passed_over(chaos: ChaosToken) -> None:
    chaos.tell("C_GenerateRandom explode")
    done = subprocess.run(
        [sys.executable, "-c", f"from kmsd.hsm.host import module; module.load({chaos.module!r})"],
        env=chaos.environment,
        cwd=asking.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    assert "explode is not known" in done.stderr
