"""The configuration of a real kmsd, and its log level."""

from __future__ import annotations

from tests.daemons import Kmsd, wait_for
from tests.tui.conftest import app_on
from tests.tui.screen import line_with, until


async def test_settings_show_with_where_they_came_from_and_no_secret(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await pilot.press("7")
        screen = await until(pilot, "kms.socket", "log level debug")
        assert "--socket" in line_with(screen, "kms.socket  ")
        assert "1234-user" not in screen
        await pilot.press("/", *"^keys.refresh", "enter")
        await until(pilot, "KMSD_KEYS__REFRESH", "[keys] refresh = …")
        await pilot.press("c")
        await until(pilot, "copied keys.refresh = 10.0")


async def test_the_log_level_is_changed(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("7")
        await until(pilot, "log level debug")
        await pilot.press("L")
        await until(pilot, "Log level", "log-level debug")
        await pilot.press("enter", "down", "down", "enter")
        await until(pilot, "log-level warning")
        await pilot.click("#ok")
        await until(pilot, "the log level is warning now, it was debug", "log level warning")
    kmsd.v2("Status")
    lines = len(kmsd.log_lines())
    kmsd.v2("Status")
    assert len(kmsd.log_lines()) == lines
    wait_for(lambda: any(line.get("event") == "log level" or "log" in line["event"] for line in kmsd.log_lines()))
