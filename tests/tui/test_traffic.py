"""Rates, latencies, errors and the tail of requests of a real kmsd under load."""

from __future__ import annotations

import json
import re

from tests.daemons import Kmsd
from tests.tui.conftest import app_on, under_load
from tests.tui.screen import holds, line_with, shown, until


async def test_shows_methods_keys_errors_operations_and_every_call(kmsd: Kmsd) -> None:
    digest = kmsd.status().write_key.key_id_sha256[:8]
    app = app_on(kmsd)
    with under_load(kmsd):
        async with app.run_test(size=(160, 50), notifications=True) as pilot:
            await pilot.press("4")
            screen = await until(pilot, "v2 Decrypt", "✕ INVALID_ARGUMENT", "sessions busy", "load-", "Latency")
            assert " ms" in line_with(screen, "v2 Encrypt ")
            assert "k8s-kek" in line_with(screen, f"{digest}  k8s-kek  ")
            assert "decrypt_gcm " in screen
            await pilot.press("/", *"invalid_arg", "enter")
            screen = await until(pilot, "/invalid_arg", "✕  v2")
            assert "●  v2" not in screen
            await pilot.press("y")
            await until(pilot, "as JSON")
            assert json.loads(app.clipboard)["code"] == "INVALID_ARGUMENT"
            await pilot.press("enter")
            await until(pilot, "outcome", "✕ INVALID_ARGUMENT", "reason", "Esc closes")
            assert json.loads(app.clipboard)["reason"]


async def test_the_tail_follows_until_one_looks_back_or_pauses(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    with under_load(kmsd):
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.press("4")
            await until(pilot, "load-3")
            table = app.screen.query_one("Table")
            assert table.cursor == len(table.items) - 1  # type: ignore[attr-defined]
            await pilot.press("up")
            await holds(lambda: table.cursor < len(table.items) - 1)  # type: ignore[attr-defined]
            chosen = table.current.item.uid  # type: ignore[attr-defined]
            count = len(table.items)  # type: ignore[attr-defined]
            await holds(lambda: len(table.items) > count + 3)  # type: ignore[attr-defined]
            assert table.current.item.uid == chosen  # type: ignore[attr-defined]
            await pilot.press("p")
            await until(pilot, "paused, read ", without="read 0 s ago")
            before = shown(app).splitlines()[-8:-2]
            await pilot.pause(0.5)
            assert shown(app).splitlines()[-8:-2] == before
            await pilot.press("p", "G")
            await until(pilot, "load-", without="paused")


async def test_on_a_small_screen_the_panels_take_turns(kmsd: Kmsd) -> None:
    with under_load(kmsd):
        async with app_on(kmsd).run_test() as pilot:
            await pilot.press("4")
            await until(pilot, "Methods", "v2 Decrypt", without="Operations of the token")
            await pilot.press("v")
            await until(pilot, "✕ INVALID_ARGUMENT", without="Methods")
            await pilot.press("v")
            await until(pilot, "encrypts  decrypts")
            await pilot.press("v")
            await until(pilot, "Operations of the token")
            await pilot.press("v")
            await until(pilot, "Methods")


async def test_on_a_wide_and_low_screen_two_panels_stand_side_by_side(kmsd: Kmsd) -> None:
    with under_load(kmsd):
        async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
            await pilot.press("4")
            await until(pilot, "Methods", "✕ INVALID_ARGUMENT", without="Operations of the token")
            # The columns find their widths with the first rows.
            await holds(lambda: re.search("calls +errors", shown(pilot.app)))
            await pilot.press("v")
            await until(pilot, "encrypts  decrypts", "Operations of the token", without="Methods")
            await pilot.press("v")
            await until(pilot, "Methods", without="Operations of the token")
