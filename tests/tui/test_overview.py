"""Is it serving, with which key, what is wrong: against a real kmsd."""

from __future__ import annotations

import hashlib

import pytest

from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.screen import flat, line_with, until

SIZES = [(80, 24), (160, 50)]


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "160x50"])
async def test_shows_write_key_health_traffic_and_events(kmsd: Kmsd, size: tuple[int, int]) -> None:
    key = kmsd.status().write_key
    digest = hashlib.sha256(key.key_id.encode()).hexdigest()[:8]
    with under_load(kmsd):
        async with app_on(kmsd).run_test(size=size) as pilot:
            screen = await until(pilot, "● round trip", "write key", "now ", "p50 0.", without="errors 0 %")
    assert f"hash  {digest}" in screen
    assert "4 of 4" in line_with(screen, "● sessions")
    assert "● v2 v1beta1" in screen
    assert key.key_id[:20] in line_with(screen, "id    ")
    assert "p99" in screen


async def test_says_why_it_is_down_and_turns_serving_when_the_key_is_made(start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test() as pilot:
        screen = await until(pilot, "○ DOWN", "○ none")
        assert "no key labelled 'k8s-kek'" in flat(screen)
        assert "kmsctl keygen k8s-kek" in screen
        kmsd.keygen()
        screen = await until(pilot, "● SERVING", "GenerateKey", without="○ DOWN")
        assert "→ make" not in screen


async def test_a_second_key_with_the_write_label_that_cannot_serve_shows_as_degraded(
    start_kmsd: Start, token: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KEYS__REFRESH": "0.2"}).wait_ok()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        token.import_aes("k8s-kek", bytes(32), None)
        screen = await until(pilot, "◐ DEGRADED", "no CKA_ID")
        assert "→ " in screen


async def test_a_lost_token_shows_down_and_the_keys_known_before(start_kmsd: Start, token: SoftToken) -> None:
    environment = {"KMSD_HEALTH__INTERVAL": "0.2", "KMSD_KEYS__REFRESH": "0.2"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("3")
        await until(pilot, "● write")
        with token.away():
            screen = await until(pilot, "○ DOWN", "as of")
            assert "→ " in screen
            assert "● write" in screen
        await until(pilot, "● SERVING", without="as of")


async def test_c_copies_the_write_key_and_capital_r_offers_a_rotation(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("c")
        await until(pilot, "copied")
        assert app.clipboard == kmsd.status().write_key.key_id
        await pilot.press("R")
        await until(pilot, "Rotate k8s-kek", "what would be done", "make a new key labelled k8s-kek.pending")
        await pilot.press("escape")
        await until(pilot, "Write key", without="Rotate k8s-kek")
