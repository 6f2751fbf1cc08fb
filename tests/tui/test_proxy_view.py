"""A proxy on the screens: which key managers it has and how they are, and no action that it would refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from kmsd.client import StatsFrame, connect
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import Manager, well
from tests.tui.conftest import app_on
from tests.tui.screen import flat, holds, line_with, shown, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])
AWAY = "127.0.0.1:1"
"""A port that nobody listens on."""


@pytest.fixture
def proxy(manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority) -> Kmsd:
    """One that has two key managers, of which one is away."""
    made = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager, AWAY))
    wait_for(lambda: made.status().upstreams[1].reason)
    return made


def stats(kmsd: Kmsd) -> StatsFrame:
    """What it counts of its calls."""
    with connect(f"unix://{kmsd.admin_socket}") as client, client.watch_stats() as frames:
        return next(iter(frames))


@SIZES
async def test_overview_says_what_a_proxy_is(proxy: Kmsd, manager: Manager, size: tuple[int, int]) -> None:
    address, digest = f"127.0.0.1:{manager.port}", proxy.status().write_key.key_id_sha256[:8]
    async with app_on(proxy).run_test(size=size) as pilot:
        screen = await until(pilot, "proxy of 2 key managers", "Key managers (1 of 2 well)", "● in use", "days left")
        row = line_with(screen, f"● in use  {address}")
        assert digest in row
        assert f"○ away    {AWAY}" in screen
        assert f"key manager {AWAY} cannot be reached" in flat(screen)
        assert "other-0" not in screen
        assert "slot" not in screen
        assert "Rotate" not in screen


@SIZES
async def test_key_managers_stand_where_the_tokens_are_else(
    proxy: Kmsd,
    manager: Manager,
    size: tuple[int, int],
) -> None:
    async with app_on(proxy).run_test(size=size) as pilot:
        await until(pilot, "proxy of 2 key managers")
        await pilot.press("2")
        screen = await until(pilot, "Key managers (2)", "it answered the last Status")
        # On a busy machine one may have come too late.
        assert re.search(r"asked +\d+ calls, (all|\d+ of them not) answered", screen)
        assert "1 of 2 well" in screen
        assert "Slots" not in screen
        await pilot.press("/", *"away", "enter")
        screen = await until(pilot, "Key managers (1 of 2)", f"key manager {AWAY} cannot be reached")
        assert "calls go to others first" in screen


async def test_what_a_proxy_would_refuse_is_not_offered(proxy: Kmsd, manager: Manager) -> None:
    named = f"its keys are with the key managers 127.0.0.1:{manager.port} and {AWAY}"
    app = app_on(proxy)
    async with app.run_test(size=(120, 35), notifications=True) as pilot:
        await until(pilot, "proxy of 2 key managers")
        for screen, keys, names in (
            ("3", "nTRD", ("New", "Test", "Retire", "Destroy")),
            ("5", "RVX", ("Rotate", "Revert", "Retire old")),
            ("0", "vT", ("Paste", "Try")),
        ):
            await pilot.press(screen)
            shown_now = await until(pilot, named)
            last_line = shown_now.splitlines()[-1]
            assert not any(name in last_line for name in names)
            await pilot.press(*keys)
            await until(pilot, f"{names[0]}: this kmsd is a proxy")
            assert len(app.screen_stack) == 1
        await pilot.press("colon", *"127.0.0.1:1")
        await until(pilot, "Key manager, ○ away")
        await pilot.press("escape", "ctrl+p", *"rotation")
        listed = await until(pilot, "Screen 5: Rotation")
        assert "Rotate" not in listed
    asked = {each.method for each in stats(proxy).calls if each.api == "admin" and each.code != "OK"}
    assert asked == set()


async def test_rotation_says_how_far_kube_apiserver_follows_here(proxy: Kmsd) -> None:
    async with app_on(proxy).run_test(size=(80, 24)) as pilot:
        await until(pilot, "proxy of 2 key managers")
        await pilot.press("5")
        await until(pilot, proxy.status().write_key.key_id, "kube-apiserver's Status with it: first", "none yet")


async def test_doctor_traffic_audit_and_config_work(proxy: Kmsd, manager: Manager) -> None:
    async with app_on(proxy).run_test(size=(120, 35)) as pilot:
        await until(pilot, "proxy of 2 key managers")
        await pilot.press("9")
        await until(pilot, "d tries each key manager")
        await pilot.press("d")
        screen = await until(
            pilot,
            f"✕ key managers 127.0.0.1:{manager.port}, {AWAY}: 1 failed",
            "tenant cluster-a, says kmsd",
        )
        assert "doctor ''" not in screen
        await pilot.press("4")
        await until(pilot, "v2 Status", "Methods")
        await pilot.press("v")
        await until(pilot, "a proxy has no token: 2 shows its key managers")
        await pilot.press("6")
        await until(pilot, "key manager up")
        await pilot.press("7")
        await until(pilot, "proxy.upstreams")


async def test_a_problem_leads_to_the_key_manager_that_it_is_about(proxy: Kmsd) -> None:
    async with app_on(proxy).run_test(size=(120, 35)) as pilot:
        await until(pilot, "proxy of 2 key managers", "cannot be reached")
        await pilot.press("enter")
        await until(pilot, "Key managers (2)", "calls go to others first")


async def test_it_is_seen_when_the_key_manager_goes_and_comes_back(proxy: Kmsd, manager: Manager) -> None:
    async with app_on(proxy).run_test(size=(80, 24)) as pilot:
        await until(pilot, "Key managers (1 of 2 well)")
        manager.kmsd.stop()
        await until(pilot, "Key managers (0 of 2 well)", "○ DOWN")
        manager.kmsd.start()
        await until(pilot, "Key managers (1 of 2 well)", "DEGRADED")


async def test_another_target_that_is_no_proxy_has_its_screens(proxy: Kmsd, manager: Manager) -> None:
    app = app_on(proxy, manager.kmsd)
    async with app.run_test(size=(120, 35)) as pilot:
        await pilot.press("3")
        await until(pilot, "This kmsd is a proxy without a token")
        app.store.switch(f"unix://{manager.kmsd.admin_socket}")
        await until(pilot, "token kmsd-test", "Keys (", "k8s-kek")
        await holds(lambda: app.focused is not None and app.focused.display)
        app.store.switch(f"unix://{proxy.admin_socket}")
        await until(pilot, "This kmsd is a proxy without a token", without="Keys (")
        assert "New" not in shown(app).splitlines()[-1]


async def test_the_fleet_tells_proxies_from_key_managers_and_local_ones(
    proxy: Kmsd,
    manager: Manager,
    more_kmsd: Callable[..., Kmsd],
) -> None:
    local = more_kmsd("--auto-create").wait_ok()
    async with app_on(proxy, manager.kmsd, local).run_test(size=(80, 24)) as pilot:
        await pilot.press("8")
        screen = await until(pilot, "the write key agrees on 3 of 3", "proxy ", "manager ", "local ")
        assert "another write key" not in screen
        await pilot.press("/", *"proxy", "enter")
        await until(pilot, "Fleet (1 of 3)", "a proxy of 2 key managers, 1 of 2 well")


async def test_a_certificate_that_ends_soon_is_told(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    short = ca.issue("short", "DNS:n9.cluster-a.test", begins=timedelta(days=-85), ends=timedelta(days=5, hours=1))
    proxy = well(make_proxy(short, ca, manager))
    async with app_on(proxy).run_test(size=(80, 24)) as pilot:
        await until(pilot, "the certificate of this proxy (CN=short) ends in 5 days", "◐ certificate  5 days left")
        await pilot.press("enter")
        await until(pilot, "proxy.tls_certificate", "Settings (")
