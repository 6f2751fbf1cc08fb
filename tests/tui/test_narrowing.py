"""From an error and from a key to its requests, on a real kmsd; and what is over a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kmsd.client.clientconfig import Thresholds
from kmstui import limits, streams
from kmstui.view import Want
from tests.daemons import Kmsd
from tests.tui.conftest import app_on, under_load
from tests.tui.scenes import SCENES, busy
from tests.tui.scenes.daemon import WRITE
from tests.tui.screen import flat, holds, line_with, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])


@SIZES
async def test_errors_lead_to_the_requests_that_failed(kmsd: Kmsd, size: tuple[int, int]) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=size) as pilot:
        await until(pilot, "● SERVING")
        with under_load(kmsd):
            await pilot.press("4")
            await holds(lambda: len(app.store.view.requests.items) >= 20)
        await pilot.press("1", "e")
        screen = await until(pilot, "only errors", "✕  v2")
        assert "●  v2" not in screen
        await pilot.press("escape")
        await until(pilot, "●  v2", without="only errors")
        await pilot.press("e")
        await until(pilot, "only errors", without="●  v2")
        await pilot.press("e")
        await until(pilot, "●  v2", without="only errors")


async def test_errors_are_not_pushed_out_by_what_works(kmsd: Kmsd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streams.MOST, Want.REQUESTS, 30)
    monkeypatch.setitem(streams.BACKLOG, Want.REQUESTS, 30)
    app = app_on(kmsd)
    async with app.run_test(size=(120, 35)) as pilot:
        await pilot.press("4", "e")
        await until(pilot, "only errors")
        with under_load(kmsd, pause=0.002):
            await holds(lambda: len(app.store.view.chosen.items) >= 10)
            assert len(app.store.view.requests.items) == 30
        assert all(each.item.code != "OK" for each in app.store.view.chosen.items)


@SIZES
async def test_a_key_leads_to_its_requests(kmsd: Kmsd, size: tuple[int, int]) -> None:
    app = app_on(kmsd)
    digest = kmsd.status().write_key.key_id_sha256
    async with app.run_test(size=size) as pilot:
        await until(pilot, "● SERVING")
        with under_load(kmsd):
            await pilot.press("4")
            await holds(lambda: len(app.store.view.requests.items) >= 20)
        await pilot.press("3")
        await until(pilot, "Keys (1)")
        await pilot.press("u")
        await until(pilot, f"only key {digest[:8]}", "●  v2")
        assert {each.item.key_id_sha256 for each in app.store.view.chosen.items} == {digest}
        await pilot.press("escape")
        await until(pilot, "Requests (", without="only key")


async def test_a_click_on_the_errors_lists_them(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, "● SERVING")
        with under_load(kmsd):
            await pilot.press("4")
            await holds(lambda: len(app.store.view.requests.items) >= 20)
        await pilot.click("CodesPanel")
        await until(pilot, "only errors")


async def test_what_is_over_a_limit_is_said_in_the_header_and_the_help(kmsd: Kmsd) -> None:
    strict = Thresholds(p99=0.000001, errors=0.001)
    with under_load(kmsd):
        async with app_on(kmsd, thresholds=strict).run_test() as pilot:
            screen = await until(pilot, "◐ over limits: p99, errors", "● SERVING")
            assert "req/s" in line_with(screen, "over limits")
            await pilot.press("question_mark")
            await pilot.press("end")
            assert "more than 0.1 % errors (of 60 s)" in flat(await until(pilot, "over a limit"))
        async with app_on(kmsd, thresholds=Thresholds(errors=0.9)).run_test() as pilot:
            await until(pilot, "● SERVING", "req/s", without="over")


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        (Thresholds(), ()),
        (Thresholds(p99=0.001), ("p99",)),
        (Thresholds(p99=1.0), ()),
        (Thresholds(gcm_budget=0.5), ("GCM budget",)),
        (Thresholds(gcm_budget=0.9), ()),
        (Thresholds(errors=0.0), ()),
    ],
)
def test_limits_are_compared_with_what_there_is(thresholds: Thresholds, said: tuple[str, ...]) -> None:
    view = busy()
    assert view.status.value is not None
    used = replace(WRITE, encrypts=round(limits.GCM_MOST * 0.7))
    status = replace(view.status, value=replace(view.status.value, write_key=used))
    found = limits.excesses(replace(view, status=status, limits=thresholds))
    assert tuple(each.name for each in found) == said


def test_nothing_is_over_a_limit_while_nothing_is_known() -> None:
    view = replace(SCENES["empty"](), limits=Thresholds(p99=0.0, errors=0.0, gcm_budget=0.0))
    assert limits.excesses(view) == ()
