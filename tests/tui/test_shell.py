"""What is around every screen: header, help, palette, targets, themes, memory; and what can go wrong with a kmsd."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from textual import events

from kmstui import remember, themes
from kmstui.app import Kmstui
from kmstui.screens.names import ALWAYS, NAMES, NUMBERS
from kmstui.widgets.listing import Listing
from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.relay import Relay
from tests.tui.screen import flat, holds, line_with, shown, until

NOBODY = 65534


async def test_the_header_says_target_token_state_write_key_and_rate(kmsd: Kmsd) -> None:
    key = kmsd.status().write_key
    with under_load(kmsd):
        async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
            screen = await until(pilot, "● SERVING", "req/s", without=" 0 req/s")
    title = line_with(screen, "token kmsd-test")
    assert f"unix://{kmsd.admin_socket}" in title
    state = line_with(screen, "● SERVING")
    assert key.key_id in state
    assert f"k8s-kek  {key.key_id_sha256[:8]}" in state


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


@pytest.mark.parametrize("steps", range(6))
async def test_who_leaves_while_a_screen_is_being_made_leaves_it_whole(tmp_path: Path, steps: int) -> None:
    app = Kmstui([f"unix://{tmp_path}/nobody.sock"], alone=True)

    async def leave() -> None:
        for made in (False, True, False):  # the one that is seen first, and the beginning of the next
            while app.making.locked() is made:  # noqa: ASYNC110 - a lock has no event
                await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        app.exit(return_code=5)

    leaving = asyncio.create_task(leave())
    await app.run_async(headless=True, size=(120, 40))
    await leaving
    assert app.return_code == 5


async def test_number_keys_and_the_mouse_lead_to_the_screens(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING")
        for name in ALWAYS:
            await pilot.press(NUMBERS[name])
            await holds(partial(is_on, app, name))
        await until(pilot, "nothing was inspected yet")
        assert app.page is not None
        await pilot.click(app.page.query("Tab")[2])
        await until(pilot, "Keys (1)")


async def test_what_is_typed_fast_goes_where_the_key_before_it_leads(kmsd: Kmsd) -> None:
    kmsd.keygen("payments")
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, "● SERVING")
        typed_at_once(app, "3")
        await until(pilot, "Keys (2)")
        typed_at_once(app, "slash", *"payD", "enter", "home", "n", *"other")
        await until(pilot, "New key", "keygen other")
        assert app.page is not None
        assert app.page.query_one(Listing).filter_text == "payD"
        typed_at_once(app, "escape", "slash", *"^p", "enter", "D")
        await until(pilot, "Destroy payments")


def typed_at_once(app: Kmstui, *keys: str) -> None:
    """As a terminal hands them over in one piece, without a look at what they do."""
    for key in keys:
        app.post_message(events.Key(key, key if len(key) == 1 else None))


async def test_every_screen_is_made_before_it_is_looked_at(kmsd: Kmsd) -> None:
    app = app_on(kmsd, alone=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, "● SERVING")
        await holds(lambda: set(app._screen_stacks) == set(NAMES))
        await pilot.press("3")
        await until(pilot, "Keys (1)", "● write")
        assert not gc.isenabled()
    assert gc.isenabled()


def is_on(app: Kmstui, name: str) -> bool:
    return app.page is not None and app.page.is_mounted and app.page.NAME == name  # noqa: SIM300 - no constant


async def test_help_is_about_what_has_the_focus(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(100, 60)) as pilot:
        await pilot.press("3")
        await until(pilot, "● write")
        await pilot.press("question_mark")
        screen = await until(pilot, "Help", "Give the chosen key a CKA_ID", "A filter is a regular expression")
        assert "it has a key id already" in flat(screen)  # why not
        assert "Everywhere" in screen
        await pilot.press("q")
        await until(pilot, "Keys (1)", without="Everywhere")
        assert app.is_running
        await pilot.press("n", "tab", "tab")
        await until(pilot, "New key")
        await pilot.press("question_mark")
        await until(pilot, "Makes a key on the token.")


async def test_the_palette_does_what_the_keys_do_on_any_screen(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(size=(120, 40)) as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("ctrl+p")
        await until(pilot, "Search for commands")
        await pilot.press(*"audit verify")
        await until(pilot, "Audit: Verify")
        await pilot.press("enter")
        await until(pilot, "Verify the audit", "the chain is intact")
        await pilot.press("escape", "ctrl+p", *"keys retire")
        await until(pilot, "Keys: Retire")


async def test_colon_jumps_to_a_key_by_its_name(kmsd: Kmsd) -> None:
    key = kmsd.keygen("zz-far-away")
    app = app_on(kmsd)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("1", "colon")
        await until(pilot, "Jump to")
        await pilot.press(*"far-aw")
        await until(pilot, "Key ◦ reads")
        await pilot.press("enter")
        await until(pilot, "Keys (2)", key.key_id)
        assert app.page is not None
        assert "zz-far-away" in str(app.page.query_one("Detail").border_title)


async def test_pause_stops_reading_and_r_reads_once(start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
        await until(pilot, "○ DOWN")
        await pilot.press("p")
        await until(pilot, "paused")
        kmsd.keygen()
        screen = await until(pilot, "paused, read ", without="read 0 s ago")  # five intervals without a read
        assert "○ DOWN" in screen
        await pilot.press("r")
        await until(pilot, "paused", "● SERVING")
        await pilot.press("p")
        await until(pilot, "0.2 s", without="paused")


async def test_plus_and_minus_change_the_interval(kmsd: Kmsd) -> None:
    async with app_on(kmsd, interval=2.0).run_test() as pilot:
        await until(pilot, " 2 s")
        await pilot.press("plus")
        await until(pilot, " 5 s")
        await pilot.press("minus", "minus")
        await until(pilot, " 1 s")


async def test_themes_follow_each_other_and_are_remembered_with_screen_order_and_filter(
    kmsd: Kmsd, tmp_path: Path
) -> None:
    memory = tmp_path / "state" / "kmstui" / "state.json"
    kmsd.keygen("other")
    app = app_on(kmsd, memory=memory)
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("ctrl+t")
        await holds(lambda: app.theme == "light")
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("s", "S", "/", *"other", "enter")
        await until(pilot, "Keys (1 of 2)", "label▾")
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert json.loads(memory.read_text())["theme"] == "light"
    app = app_on(kmsd, memory=memory)
    async with app.run_test() as pilot:
        await until(pilot, "Keys (1 of 2)  /other", "label▾")
        assert app.theme == "light"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"tables": {"keys": 3}, "screen": 9}',
        b"[" * 100_000,
        b" " * 70_000,
    ],
    ids=["empty", "half", "list", "bytes", "types", "deep", "long"],
)
def test_a_broken_memory_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert remember.load(path) == remember.Remembered()


def test_a_memory_that_cannot_be_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remember.save(remember.Remembered("Keys"), tmp_path / "file" / "state.json")
    assert (tmp_path / "file").read_text() == ""


async def test_t_switches_between_targets(start_kmsd: Start) -> None:
    first, second = (
        start_kmsd("--auto-create", name="cp-1").wait_ok(),
        start_kmsd("--auto-create", name="cp-2").wait_ok(),
    )
    async with app_on(first, second).run_test(size=(120, 40)) as pilot:
        await until(pilot, "(1 of 2)", "● SERVING", "cp-1")
        await pilot.press("t")
        await until(pilot, "Targets", "cp-2")
        await pilot.press("down", "enter")
        await until(pilot, "(2 of 2)", "● SERVING", "cp-2", without="Targets")
        second.stop()
        await until(pilot, "✕ NO ANSWER")
        await pilot.press("t", "up", "enter")
        await until(pilot, "(1 of 2)", "● SERVING")


async def test_one_target_says_how_there_could_be_more(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("t")
        await until(pilot, "there is one target; name others with --target")


async def test_read_only_refuses_what_changes_and_does_the_rest(kmsd: Kmsd) -> None:
    app = app_on(kmsd, read_only=True)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "read-only", "● write")
        for key, name in (("n", "New"), ("l", "Relabel"), ("R", "Retire"), ("D", "Destroy")):
            await pilot.press(key)
            await until(pilot, f"{name}: kmstui was started with --read-only")
        await pilot.press("T")
        await until(pilot, "every answer right")
    assert len(kmsd.admin("ListKeys").keys) == 1


async def test_a_small_terminal_is_told_so_and_recovers(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(size=(50, 10)) as pilot:
        await until(pilot, "kmstui needs 60x18", "This terminal is 50x10", without="Write key")
        await pilot.resize_terminal(80, 24)
        await until(pilot, "Write key", "● SERVING", without="kmstui needs")
        await pilot.resize_terminal(160, 50)
        await until(pilot, "Write key", "Latency", "Last events")


async def test_a_screen_that_was_left_has_the_new_size_and_theme_when_it_is_shown_again(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, "Write key", "● SERVING")
        await pilot.press("3")
        await until(pilot, "Keys (")
        ground = app.screen.background_colors[1]
        await pilot.press("1")
        await until(pilot, "Write key")
        await pilot.resize_terminal(160, 50)
        app.set_theme(themes.LIGHT.name)
        await until(pilot, "Last events")
        await pilot.press("3")
        screen = await until(pilot, "Keys (", "╮╭─ ")
        assert max(len(line) for line in screen.splitlines()) == 160
        assert len(screen.splitlines()) == 50
        assert app.screen.has_class("-broad", "-high")
        assert app.screen.background_colors[1] != ground


async def test_a_killed_kmsd_leaves_greyed_data_with_its_age_and_comes_back(kmsd: Kmsd) -> None:
    key_hash = kmsd.status().write_key.key_id_sha256
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING", "● round trip")
        assert not app.screen.query("#data.-stale")
        kmsd.stop(signal.SIGKILL)
        screen = await until(pilot, "✕ NO ANSWER", "trying again", "then ● SERVING", "lost kmsd")
        assert "nothing listens on" in flat(screen)
        assert "start it with" in screen
        assert key_hash[:8] in screen
        assert app.screen.query("#data.-stale")
        assert len(app.screen_stack) == 1
        kmsd.start()
        await until(pilot, "● SERVING", "kmsd is back", without="NO ANSWER")
        assert not app.screen.query("#data.-stale")


async def test_a_kmsd_that_does_not_run_is_told_with_what_to_do() -> None:
    async with Kmstui(["unix:///nonexistent/admin.sock"], 0.2).run_test() as pilot:
        screen = await until(pilot, "✕ NO ANSWER")
        assert "there is no socket /nonexistent/admin.sock" in screen
        assert "→ start it with" in screen


async def test_the_socket_of_another_api_is_told(kmsd: Kmsd) -> None:
    async with Kmstui([f"unix://{kmsd.socket}"], 0.2).run_test() as pilot:
        await until(pilot, "✕ NO ANSWER", "is a KMS socket,", "name kmsd's admin socket instead")


async def test_no_permission_is_told_with_owner_and_mode(kmsd: Kmsd) -> None:
    importlib.import_module("kmsd.client.admin")  # as another user Python may not be able to read its own library
    with unprivileged(kmsd.admin_socket):
        async with app_on(kmsd).run_test() as pilot:
            screen = await until(pilot, "✕ NO ANSWER", "no permission on the ")
            assert "belongs to" in flat(screen)


@contextmanager
def unprivileged(socket: Path) -> Iterator[None]:
    """As nobody, if this is root; else with a socket that its owner may not use either."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        mode = socket.stat().st_mode
        socket.chmod(0o000)
        try:
            yield
        finally:
            socket.chmod(mode)


async def test_a_kmsd_restarted_with_another_token_says_so_until_noted(
    start_kmsd: Start, token: SoftToken, short_tmp: Path
) -> None:
    token.init_token("second")
    kmsd = start_kmsd("--auto-create").wait_ok()
    other = Kmsd(kmsd.folder, SoftToken(token.folder, "second"), ("--auto-create",))
    async with app_on(kmsd).run_test(size=(120, 40)) as pilot:
        await until(pilot, "token kmsd-test", "● SERVING")
        kmsd.stop()
        try:
            other.start()
            await until(pilot, "token second", "kmsd is on another token than before: it was kmsd-test (serial ")
            await until(pilot, "another token", "kmsd restarted")
            await pilot.press("r")
            await until(pilot, "token second", without="than before")
        finally:
            other.stop()


async def test_a_connection_cut_in_the_middle_heals_by_itself(kmsd: Kmsd, short_tmp: Path) -> None:
    with under_load(kmsd):
        async with Relay(short_tmp / "relay.sock", kmsd.admin_socket) as relay:
            app = Kmstui([f"unix://{relay.path}"], 0.2)
            async with app.run_test(size=(120, 40)) as pilot:
                await pilot.press("4")
                await until(pilot, "load-", "v2 Decrypt")
                before = app.store.view.requests.items[-1].number
                for _ in range(3):
                    relay.cut()
                    await until(pilot, "● SERVING", "load-")
                await until(pilot, "● SERVING", without="broke")
                assert len(app.screen_stack) == 1
                await holds(lambda: app.store.view.requests.items[-1].number > before)


async def test_quits_while_kmsd_hangs(kmsd: Kmsd) -> None:
    assert kmsd.process is not None
    app = app_on(kmsd)
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING")
        kmsd.process.send_signal(signal.SIGSTOP)
        try:
            await pilot.press("q")
            await holds(lambda: not app.is_running)
        finally:
            kmsd.process.send_signal(signal.SIGCONT)
