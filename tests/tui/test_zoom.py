"""One panel on the whole screen; the time that plots cover."""

from __future__ import annotations

import pytest

from kmstui.screens.names import ALWAYS
from tests.tui.pictures import settled
from tests.tui.scenes import SCENES, Still
from tests.tui.screen import line_with, shown

SIZES = {"80x24": (80, 24), "120x35": (120, 35), "160x50": (160, 50)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", ALWAYS)
async def test_one_panel_fills_the_screen_and_all_come_back(screen: str, size: str) -> None:
    columns, rows = SIZES[size]
    app = Still(SCENES["busy"](), screen)
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        before, focused = shown(app), app.screen.focused
        await pilot.press("z")
        await settled(pilot)
        lines = shown(app).splitlines()
        frames = [line for line in lines if line.startswith("╭")]
        assert len(frames) == 1
        assert len(frames[0]) == columns
        assert lines[-2].startswith("╰")
        assert "z Back" in lines[-1]
        first = frames[0]
        await pilot.press("tab")
        await settled(pilot)
        second = next(line for line in shown(app).splitlines() if line.startswith("╭"))
        assert (second != first) is (len(app.page._zoomable()) > 1)  # type: ignore[union-attr]
        await pilot.press("shift+tab", "z")
        await settled(pilot)
        assert shown(app) == before
        assert app.screen.focused is focused
        assert len(before.splitlines()) == rows


@pytest.mark.parametrize("size", SIZES)
async def test_plots_cover_1_5_or_15_minutes(size: str) -> None:
    app = Still(SCENES["busy"](), "Traffic")
    async with app.run_test(size=SIZES[size]) as pilot:
        for title, first in (("last 15 minutes", "-15 min"), ("last minute", "-60 s"), ("last 5 minutes", "-5 min")):
            await settled(pilot)
            app._draw()
            await settled(pilot)
            screen = shown(app)
            assert f"Requests/s, {title}" in screen
            assert first in screen
            await pilot.press("w")


@pytest.mark.parametrize("size", SIZES)
async def test_latency_has_labelled_decades_and_nothing_is_drawn_under_a_label(size: str) -> None:
    app = Still(SCENES["busy"](), "Traffic")
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        await pilot.press("z", "tab")
        await settled(pilot)
        screen = shown(app)
        for label in ("10 ms┤", "1 ms┤", "0.1 ms┤"):
            assert line_with(screen, f" {label}").index("┤") == 9
        assert "-15 min" in screen
        for line in screen.splitlines():
            if line[:1] == "│" and line[9:10] in ("┤", "│"):
                assert not any("\u2800" < character <= "\u28ff" for character in line[:9])
