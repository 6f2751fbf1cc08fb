"""What each screen shows when kmsd is gone: all that was known, greyed, with its age."""

from __future__ import annotations

import signal

import pytest

from kmstui.screens.names import ALWAYS, NUMBERS
from kmstui.view import View
from tests.daemons import Kmsd
from tests.tui.conftest import app_on, under_load
from tests.tui.screen import flat, holds, until

KNOWN = {
    "Overview": ("k8s-kek", "req/s"),
    "Tokens": ("kmsd-test", "CKM_AES_GCM"),
    "Keys": ("Keys (2)", "another", "k8s-kek"),
    "Traffic": ("v2 Decrypt", "Requests/s"),
    "Rotation": ("Rotation of k8s-kek", "New key"),
    "Audit": ("Record ", "load-"),
    "Config and logs": ("kms.socket", "kms.mode"),
    "Fleet": ("k8s-kek",),
    "Doctor": ("d tries out a token",),
    "Inspect": ("paste a value here",),
}
"""What nobody can know without having asked kmsd, where the screen asks by itself."""
assert tuple(KNOWN) == ALWAYS
AGED = ("Tokens", "Keys", "Traffic", "Audit", "Config and logs")
"""Screens whose tables say how old they are; all do in the line about what is wrong."""


@pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])
async def test_every_screen_keeps_what_was_known_when_kmsd_goes(kmsd: Kmsd, size: tuple[int, int]) -> None:
    kmsd.keygen("another")
    app = app_on(kmsd)
    async with app.run_test(size=size) as pilot:
        await until(pilot, "● SERVING", "GenerateKey")
        with under_load(kmsd):
            await holds(lambda: app.store.view.keys.value and app.store.view.config.value and app.store.view.mechanisms)
            await holds(lambda: _called(app.store.view, "Decrypt"))
        kmsd.stop(signal.SIGKILL)
        await until(pilot, "✕ NO ANSWER")
        for name in ALWAYS:
            await pilot.press(NUMBERS[name])
            screen = await until(pilot, *KNOWN[name])
            assert "below is what was true" in flat(screen), screen
            assert app.screen.query_one("#data").has_class("-stale")
            assert ("─ as of " in screen) is (name in AGED), screen


def _called(view: View, method: str) -> bool:
    frame = view.traffic.frame
    return frame is not None and any(each.method == method for each in frame.calls)


@pytest.mark.parametrize(("screen", "known"), [("Traffic", "load-0"), ("Audit", "GenerateKey")])
async def test_calls_and_records_are_kept_for_a_screen_that_was_never_opened(
    kmsd: Kmsd, screen: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmstui.questions.AHEAD", 0.5)
    app = app_on(kmsd)
    async with app.run_test(size=(120, 35)) as pilot:
        await pilot.press(NUMBERS["Config and logs"])
        await until(pilot, "● SERVING")
        await holds(lambda: app.store.view.requests.following and app.store.view.audit.following)
        kmsd.keygen("later")
        with under_load(kmsd, pause=5):
            await holds(lambda: any(each.item.uid == "load-0" for each in app.store.view.requests.items))
            await holds(lambda: any(each.item.action == "GenerateKey" for each in app.store.view.audit.items))
        kmsd.stop(signal.SIGKILL)
        await until(pilot, "✕ NO ANSWER")
        await pilot.press(NUMBERS[screen])
        assert "below is what was true" in flat(await until(pilot, known))


async def test_a_target_that_never_answered_says_on_every_screen_that_nothing_is_known(kmsd: Kmsd) -> None:
    kmsd.stop()
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await until(pilot, "✕ NO ANSWER")
        for number in "23467":
            await pilot.press(number)
            screen = await until(pilot, "nothing is known yet: kmsd does not answer")
            assert "what was true" not in screen
