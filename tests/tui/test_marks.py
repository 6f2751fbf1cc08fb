"""Several rows marked for one action, on a real kmsd: one dialog lists them all and says what came of each."""

from __future__ import annotations

import pytest

from kmstui.screens.keys import KEYS
from kmstui.widgets.marks import MOST, Marks
from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.scenes.daemon import KEYS as SOME
from tests.tui.screen import flat, line_with, paste, until
from tests.tui.test_keys import labels

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])


@SIZES
async def test_marked_keys_are_tested_in_one_dialog(kmsd: Kmsd, token: SoftToken, size: tuple[int, int]) -> None:
    kmsd.keygen("one")
    kmsd.keygen("two")
    token.import_aes("found", bytes(32), None)
    app = app_on(kmsd)
    async with app.run_test(size=size) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (4)")
        await pilot.press("asterisk")
        await until(pilot, "Keys (4)  4 marked")
        await pilot.press("T")
        screen = flat(await until(pilot, "test 3 keys: 3 of 3 done"))
        assert "found left out: it is unusable: it has no CKA_ID" in screen
        for label in ("k8s-kek", "one", "two"):
            assert f"test {label}: 10 round trips" in screen
        await pilot.press("ctrl+y")
        assert app.clipboard.count("keys test ") == 3
        await pilot.press("escape")
        await until(pilot, "Keys (4)", without="marked")


async def test_a_mark_is_set_by_space_and_by_the_mouse_and_taken_away_by_escape(kmsd: Kmsd) -> None:
    kmsd.keygen("one")
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("home", "space")
        assert "│*● write" in await until(pilot, "1 marked")
        await pilot.click("Table", offset=(0, 2))
        await until(pilot, "2 marked")
        await pilot.press("l")
        await until(pilot, "Relabel: that is for one key at a time; Esc takes the marks away")
        await pilot.click("Table", offset=(0, 2))
        await until(pilot, "1 marked")
        await pilot.press("R")
        await until(pilot, "none of the 1 marked keys: it writes: rotate first")
        await pilot.press("escape")
        await until(pilot, "Keys (2)", without="marked")


async def test_keys_without_an_id_are_adopted_together(kmsd: Kmsd, token: SoftToken) -> None:
    for label in ("found", "lost"):
        token.import_aes(label, bytes(32), None)
    async with app_on(kmsd).run_test() as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (3)", "✕ unusable")
        await pilot.press("asterisk", "a")
        await until(pilot, "Adopt 2 keys", "k8s-kek left out: it has a key id already", "keys adopt found")
        await pilot.click("#ok")
        await until(pilot, "adopt 2 keys: 2 of 2 done", "adopt lost: lost has the key id ")
    assert all(key.key_id for key in kmsd.admin("ListKeys").keys)


@SIZES
async def test_several_are_destroyed_only_with_their_number_typed(start_kmsd: Start, size: tuple[int, int]) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    for label in ("one", "two"):
        kmsd.keygen(label)
    async with app_on(kmsd).run_test(size=size) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (3)")
        await pilot.press("asterisk", "D")
        await until(pilot, "Destroy 2 keys", "left out: it writes: destroy it by itself", "against 2 of 2")
        await pilot.press("enter")  # on Cancel
        await until(pilot, "Keys (3)  3 marked", without="Destroy 2 keys")
        await pilot.press("D")
        await until(pilot, "against 2 of 2")
        pilot.app.screen.query_one("#confirm").focus()
        await pilot.press(*"destroy 1", "enter")
        assert labels(kmsd) == {"k8s-kek", "one", "two"}
        await pilot.press("backspace", "2", "enter")
        await until(pilot, "destroy 2 keys: 2 of 2 done", "destroyed one (AES-256", "destroyed two (AES-256")
        await pilot.press("escape")
        await until(pilot, "Keys (1)", without="marked")
    assert labels(kmsd) == {"k8s-kek"}


async def test_what_kmsd_refuses_is_left_out_unless_the_number_of_all_is_typed(kmsd: Kmsd) -> None:
    kmsd.keygen("spare")
    with under_load(kmsd):
        pass
    kmsd.admin("RotateKey")
    (old,) = labels(kmsd) - {"k8s-kek", "spare"}
    async with app_on(kmsd).run_test(size=(120, 35)) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (3)")
        await pilot.press("asterisk", "R")
        await until(pilot, "Retire 2 keys", "against 1 of 2", f"retire {old}: ")
        await pilot.click("#ok")
        await until(pilot, "retire 1 key: 1 of 1 done", "is retired")
        assert old in labels(kmsd)
        await pilot.press("escape", "asterisk", "R")
        await until(pilot, "Retire 1 key", "type retire 1", "against 0 of 1")
        pilot.app.screen.query_one("#confirm").focus()
        await paste(pilot, "retire 1")
        await pilot.press("enter")
        await until(pilot, "retire 1 key: 1 of 1 done")
    assert old not in labels(kmsd)
    assert "k8s-kek" in labels(kmsd)


async def test_what_fails_among_several_says_so_beside_what_worked(kmsd: Kmsd, token: SoftToken) -> None:
    kmsd.keygen("doomed")
    kmsd.keygen("stays")
    async with app_on(kmsd, interval=60.0).run_test(size=(120, 35)) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (3)")
        token.destroy("doomed")
        await pilot.press("asterisk", "T")
        screen = await until(pilot, "test 3 keys: 2 of 3 done")
        assert "✕" in line_with(screen, "test doomed:")
        assert "✔" in line_with(screen, "test stays:")
        await pilot.press("escape")
        await until(pilot, "3 marked")


def test_marks_have_a_bound_and_forget_what_is_gone() -> None:
    marks = Marks[str](str)
    assert not marks.toggle_all([str(number) for number in range(MOST + 1)])
    assert len(marks) == MOST
    assert not marks.toggle("one more")
    marks.keep(["3", "5", "none"])
    assert list(marks.of(["5", "4", "3"])) == ["5", "3"]
    assert marks.toggle_all(["3", "5"])
    assert not marks
    keys = Marks(KEYS.ident)
    assert all(map(keys.toggle, SOME))
    assert len(keys) == len(SOME)
