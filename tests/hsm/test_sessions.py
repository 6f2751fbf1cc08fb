"""token.sessions = "auto": as many sessions as make a slow token faster, and no more than it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for

SLOW = "C_Encrypt delay=0.02"
ENCRYPT = v2.EncryptRequest(plaintext=bytes(32)).SerializeToString()

Start = Callable[..., Kmsd]


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    token = make_chaos(short_tmp / "chaos")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    return token


@pytest.fixture
def start(start_kmsd: Start, chaos: ChaosToken) -> Start:
    def begin(**environment: str) -> Kmsd:
        kmsd = start_kmsd(*chaos.flags, default_flags=False, environment={**chaos.environment, **environment})
        return kmsd.wait_ok()

    return begin


def _crowd(kmsd: Kmsd, callers: int, seconds: float) -> int:
    """How many Encrypts are answered to callers who ask again at once. Any that fails fails the test."""

    async def run() -> int:
        async with grpc.aio.insecure_channel(f"unix:{kmsd.socket}") as channel:
            encrypt: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/v2.KeyManagementService/Encrypt"
            )
            until = time.monotonic() + seconds
            answered = 0

            async def ask() -> None:
                nonlocal answered
                while time.monotonic() < until:
                    await encrypt(ENCRYPT, timeout=10.0)
                    answered += 1

            await asyncio.gather(*(ask() for _ in range(callers)))
            return answered

    return asyncio.run(run())


def test_a_slow_token_gets_more_sessions_while_calls_wait_and_fewer_after_rest(start: Start, chaos: ChaosToken) -> None:
    kmsd = start()
    before = kmsd.status().sessions
    assert (before.open, before.configured, before.most) == (4, 4, 32)
    with chaos.told(SLOW):
        assert _crowd(kmsd, 48, 4.0) > 4 * 4.0 / 0.02
        grown = kmsd.status().sessions
        assert (grown.open, grown.configured) == (32, 32)
    kmsd.keygen("another")
    wait_for(lambda: kmsd.status().sessions.open == 4, timeout=60.0, pause=0.5)
    kmsd.wait_ok()


def test_a_quick_token_keeps_the_sessions_that_it_has(start: Start) -> None:
    kmsd = start()
    _crowd(kmsd, 32, 1.0)
    assert kmsd.status().sessions.open <= 8  # a machine that is busy is slow for a moment, and more do not help it


def test_a_number_is_kept_to(start: Start, chaos: ChaosToken) -> None:
    kmsd = start(KMSD_TOKEN__SESSIONS="3")
    with chaos.told(SLOW):
        _crowd(kmsd, 24, 1.5)
        use = kmsd.status().sessions
        assert (use.open, use.configured, use.most) == (3, 3, 3)


@pytest.mark.parametrize("how", ["sessions 12", "sessions 12 shared"])
def test_growth_ends_where_the_token_has_no_more_and_leaves_one_to_make_keys_with(
    start: Start, chaos: ChaosToken, how: str
) -> None:
    chaos.tell(how)
    kmsd = start()
    chaos.tell(how, SLOW)
    _crowd(kmsd, 48, 3.0)
    # One of the twelve holds the login, and one is left.
    assert kmsd.status().sessions.open == 10
    chaos.forget_calls()
    _crowd(kmsd, 48, 2.0)
    assert chaos.calls()["C_OpenSession"] == 0  # what was refused is not tried again at once
    chaos.tell(how)
    made = kmsd.keygen("another")
    assert made.label == "another"
    kmsd.wait_ok()


def test_a_token_without_memory_for_more_serves_on(start: Start, chaos: ChaosToken) -> None:
    kmsd = start()
    with chaos.told(SLOW, "C_OpenSession rv=0x31"):
        assert _crowd(kmsd, 48, 2.0) > 0
        assert kmsd.status().sessions.open == 4
    kmsd.wait_ok()
