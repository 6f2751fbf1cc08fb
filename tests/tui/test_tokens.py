"""Slots, tokens and mechanisms of a real SoftHSM."""

from __future__ import annotations

import json

from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on
from tests.tui.screen import flat, line_with, until


async def test_shows_slots_and_what_the_token_in_use_can_do(start_kmsd: Start, token: SoftToken) -> None:
    token.init_token("neighbour")
    kmsd = start_kmsd("--auto-create").wait_ok()
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await pilot.press("2")
        screen = await until(pilot, "Slots (3)", "● in use", "CKM_AES_GCM")
        assert "kmsd-test" in line_with(screen, "● in use")
        assert "token initialized" in flat(screen)
        assert "encrypts and decrypts" in line_with(screen, "CKM_AES_GCM ")
        await pilot.press("y")
        await until(pilot, "as JSON")
        assert json.loads(app.clipboard)["token_label"] == "kmsd-test"
        await pilot.press("tab", "/", *"aes_cbc", "enter")
        screen = await until(pilot, "/aes_cbc", "CKM_AES_CBC_PAD")
        assert "CKM_AES_GCM" not in screen
        await pilot.press("c")
        await until(pilot, "copied CKM_AES_CBC")


async def test_another_token_is_not_asked_for_mechanisms(start_kmsd: Start, token: SoftToken) -> None:
    token.init_token("neighbour")
    kmsd = start_kmsd("--auto-create").wait_ok()
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await pilot.press("2")
        await until(pilot, "Slots (3)", "CKM_AES_GCM")
        await pilot.press("/", *"neighbour", "enter")
        await until(pilot, "Slots (1 of 3)", "kmsd does not use this token", "Mechanisms (0)")
