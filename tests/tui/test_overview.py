"""The overview, driven by keys against a real kmsd."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable

import pytest

from kmstui.app import Kmstui
from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.screen import line_with, shown, until

SIZES = [(80, 24), (160, 50)]


def app_on(kmsd: Kmsd, interval: float = 0.2) -> Kmstui:
    return Kmstui(f"unix://{kmsd.admin_socket}", interval)


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "160x50"])
async def test_shows_state_write_key_and_health(kmsd: Kmsd, size: tuple[int, int]) -> None:
    key = kmsd.status().write_key
    async with app_on(kmsd).run_test(size=size) as pilot:
        screen = await until(pilot, "● SERVING", "● write")
    title = line_with(screen, "● SERVING")
    assert "token kmsd-test" in title
    assert str(kmsd.admin_socket)[-12:] in title
    assert f"sha256:{hashlib.sha256(key.key_id.encode()).hexdigest()[:8]}" in screen
    assert key.key_id in screen  # whole, in the detail of the chosen row
    assert "● round trip" in screen
    assert "4 of 4, 0 stuck" in screen
    assert "v2 v1beta1" in screen
    assert "AES-256" in line_with(screen, "● write")


async def test_says_why_it_is_down_and_turns_serving_when_the_key_is_made(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test() as pilot:
        screen = await until(pilot, "○ DOWN", "○ none")
        assert "no key labelled 'k8s-kek'" in line_with(screen, "○ there")
        assert "→ " in screen
        assert "kmsctl keygen k8s-kek" in screen
        kmsd.keygen()
        screen = await until(pilot, "● SERVING", "● write", without="DOWN")
        assert "→" not in screen


async def test_two_keys_with_the_write_label_show_as_degraded_with_what_to_do(kmsd: Kmsd, token: SoftToken) -> None:
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        token.import_aes("k8s-kek", bytes(32), b"second")
        screen = await until(pilot, "◐ DEGRADED", "Keys (2)")
        assert "labelled 'k8s-kek'" in line_with(screen, "◐ 2 keys on token")
        assert "→ relabel the older ones (p11tool --set-label)" in screen


async def test_a_lost_token_shows_down_and_the_keys_known_before(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    environment = {"KMSD_HEALTH__INTERVAL": "0.2", "KMSD_KEYS__REFRESH": "0.2"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING", "● write")
        with token.away():
            screen = await until(pilot, "○ DOWN", "○ token", "as of")
            assert "→ " in screen
            assert "● write" in screen
        await until(pilot, "● SERVING", "● token", without="as of")


async def test_a_killed_kmsd_leaves_greyed_data_with_its_age_and_comes_back(kmsd: Kmsd) -> None:
    key_hash = kmsd.status().write_key.key_id_sha256
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING", "● write")
        assert not app.screen.query("#data.-stale")
        kmsd.stop(signal.SIGKILL)
        screen = await until(pilot, "✕ NO ANSWER", "trying again", "then ● SERVING", "as of")
        assert "nothing listens on" in screen
        assert "start it with" in screen
        assert f"sha256:{key_hash[:8]}" in screen
        assert app.screen.query("#data.-stale")
        assert len(app.screen_stack) == 1
        kmsd.start()
        await until(pilot, "● SERVING", without="NO ANSWER")
        assert not app.screen.query("#data.-stale")


async def test_a_kmsd_that_does_not_run_is_told_with_what_to_do() -> None:
    async with Kmstui("unix:///nonexistent/admin.sock", 0.2).run_test() as pilot:
        screen = await until(pilot, "✕ NO ANSWER")
        assert "there is no socket /nonexistent/admin.sock" in screen
        assert "→ start it with" in screen


async def test_the_filter_keeps_matching_keys_until_escape(kmsd: Kmsd) -> None:
    kmsd.keygen("archive-2024")
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "Keys (2)")
        await pilot.press("slash", *"^arch")
        screen = await until(pilot, "Keys (1 of 2)")
        assert "archive-2024" in screen
        assert "● write" not in screen
        await pilot.press("enter")
        await until(pilot, "Keys (1 of 2)  /^arch")
        await pilot.press("slash", *"(")
        await until(pilot, "not a regular expression", "Keys (1 of 2)  /^arch")
        await pilot.press("escape")
        await until(pilot, "Keys (2)", "● write", without="regular expression")


async def test_c_copies_the_key_id_of_the_chosen_row(kmsd: Kmsd) -> None:
    other = kmsd.keygen("zz-other").key_id
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, "Keys (2)")
        await pilot.press("down")
        await until(pilot, other)
        await pilot.press("c")
        await until(pilot, "copied")
        assert app.clipboard == other


async def test_unusable_keys_say_why_and_labels_are_harmless(kmsd: Kmsd, token: SoftToken) -> None:
    token.objects(
        {"do": "import", "type": "aes", "label": "[red]x[/", "value": "11" * 32, "id": "01"},
        {"do": "import", "type": "aes", "label": "bell\x07\x1b[31m", "value": "22" * 32, "id": ""},
        {"do": "import", "type": "aes", "label": "日本語", "value": "33" * 32, "id": "30"},
    )
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        screen = await until(pilot, "Keys (4)", "✕ unusable")
        assert "[red]x[/" in screen
        assert "日本語" in screen
        assert "\x1b" not in screen
        assert "\x07" not in screen
        assert r"bell\x07\x1b[31m" in screen
        assert "no CKA_ID" in line_with(screen, "✕ unusable")
        await pilot.press("slash", *"unusable", "enter")
        await until(pilot, "Keys (1 of 4)", "why    it has no CKA_ID")


async def test_pause_stops_reading_and_r_reads_once(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "○ DOWN")
        await pilot.press("p")
        await until(pilot, "PAUSED")
        kmsd.keygen()
        screen = await until(pilot, "PAUSED, read ", without="read 0 s ago")  # five intervals without a read
        assert "○ DOWN" in screen
        await pilot.press("r")
        await until(pilot, "PAUSED", "● SERVING")
        await pilot.press("p")
        await until(pilot, "every 0.2 s", without="PAUSED")


async def test_plus_and_minus_change_the_interval(kmsd: Kmsd) -> None:
    async with app_on(kmsd, interval=2.0).run_test() as pilot:
        await until(pilot, "every 2 s")
        await pilot.press("plus")
        await until(pilot, "every 5 s")
        await pilot.press("minus", "minus")
        await until(pilot, "every 1 s")


async def test_slots_show_the_token_in_use_and_the_mouse_leads_there(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test() as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("2")
        screen = await until(pilot, "Slots (2)", "● in use")
        assert "kmsd-test" in line_with(screen, "● in use")
        assert "token initialized" in screen
        await pilot.click("Tab", offset=(3, 0))
        await until(pilot, "Write key", "● write")


async def test_a_small_terminal_is_told_so_and_recovers(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(size=(50, 10)) as pilot:
        await until(pilot, "kmstui needs 60x18", "This terminal is 50x10", without="Write key")
        await pilot.resize_terminal(80, 24)
        await until(pilot, "Write key", "● SERVING", without="kmstui needs")


async def test_help_tells_the_keys_and_q_closes_it(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await pilot.press("question_mark")
        await until(pilot, "copy the key id", "kmsctl status")
        await pilot.press("q")
        await until(pilot, "● SERVING", without="copy the key id")
        assert app.is_running


async def test_paints_before_kmsd_answers(kmsd: Kmsd) -> None:
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGSTOP)
    try:
        async with app_on(kmsd).run_test() as pilot:
            await pilot.pause()
            screen = shown(pilot.app)
            assert "… CONNECTING" in screen
            assert "Write key" in screen
    finally:
        kmsd.process.send_signal(signal.SIGCONT)
