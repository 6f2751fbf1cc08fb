"""The doctor on a real token: progress, every check, what to do about it, and who may run it."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.tui.conftest import app_on
from tests.tui.screen import flat, line_with, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])


@SIZES
async def test_a_token_is_tried_out_and_every_check_is_shown(kmsd: Kmsd, size: tuple[int, int]) -> None:
    async with app_on(kmsd).run_test(size=size) as pilot:
        await pilot.press("9")
        await until(pilot, "d tries out a token", "Checks (0)", "● SERVING")
        await pilot.press("d")
        await until(pilot, "looking at the token", "at most 60 s")
        screen = await until(pilot, "0 failed", without="looking at the token")
        assert f"--target unix://{kmsd.admin_socket} doctor" in flat(screen)
        assert "● works" in screen
        await pilot.press("/", *"verdict|AES-GCM", "enter")
        assert "A256GCM" in await until(pilot, "outcome")
        await pilot.press("3", "9")
        await until(pilot, "0 failed")
        assert " ago" in line_with(await until(pilot, "Checks ("), " ago")


async def test_it_is_refused_while_only_reading_and_while_kmsd_is_away(kmsd: Kmsd) -> None:
    async with app_on(kmsd, read_only=True).run_test(notifications=True) as pilot:
        await pilot.press("9")
        await until(pilot, "● SERVING")
        await pilot.press("d")
        await until(pilot, "Run: kmstui was started with --read-only")
        kmsd.stop()
        await until(pilot, "✕ NO ANSWER")
        await pilot.press("d")
        await until(pilot, "Run: kmsd does not answer")
