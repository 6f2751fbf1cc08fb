"""The keys and everything that can be done to them, driven by keys and mouse against a real kmsd on SoftHSM."""

from __future__ import annotations

import asyncio
import json

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.daemons import Kmsd
from tests.tokens import SoftToken
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.screen import flat, line_with, paste, until


def labels(kmsd: Kmsd) -> set[str]:
    return {key.label for key in kmsd.admin("ListKeys").keys}


async def test_a_first_key_is_made_and_writes_at_once(start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await until(pilot, "○ DOWN")
        await pilot.press("3", "n")
        screen = await until(pilot, "New key", "this is the write label", "keygen k8s-kek")
        assert "--type aes --bits 256" in screen
        await pilot.press("enter")
        await until(pilot, "made k8s-kek (AES-256, hash ", "● SERVING", "● write")
    assert kmsd.status().write_key.label == "k8s-kek"


@pytest.mark.parametrize(
    ("choices", "told", "made"),
    [
        (["down"], "--type pair", {"other", "other.hmac"}),
        (["down", "down"], "--type hmac", {"other"}),
    ],
    ids=["pair", "hmac"],
)
async def test_pairs_and_hmac_keys_are_made(kmsd: Kmsd, choices: list[str], told: str, made: set[str]) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await pilot.press("3", "n")
        await until(pilot, "a label is needed")
        await pilot.press(*"other")
        await until(pilot, "keygen other", "it will not write")
        await pilot.press("tab", "enter", *choices, "enter")
        await until(pilot, told)
        await pilot.click("#ok")
        await until(pilot, "made other", f"Keys ({1 + len(made)})")
        async with asyncio.timeout(20):  # the cursor goes to it with the next answer
            while app.page is None or "other" not in str(app.page.query_one("Detail").border_title):
                await pilot.pause(0.02)
    assert labels(kmsd) == {"k8s-kek"} | made


async def test_a_taken_label_is_refused_before_and_after_kmsd_is_asked(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (1)")
        await pilot.press("n", *"k8s-kek")
        await until(pilot, "a key has this label already")
        await pilot.press("home", "delete", *"x")
        await until(pilot, "keygen x8s-kek")
        kmsd.keygen("x8s-kek")
        await pilot.press("enter")
        screen = await until(pilot, "trying again unchanged will not help")
        assert "'x8s-kek'" in screen
        assert "→ " in screen
        await pilot.press("escape")
        await until(pilot, "Keys (2)", without="New key")


async def test_a_key_is_tested_with_its_timing(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test() as pilot:
        await pilot.press("3")
        await until(pilot, "● write")
        await pilot.press("T")
        screen = await until(pilot, "10 round trips with k8s-kek, every answer right")
        assert "median " in line_with(screen, "encrypt  ")
        assert f"keys test {kmsd.status().write_key.key_id}" in flat(screen)


async def test_a_key_is_relabelled(kmsd: Kmsd) -> None:
    key_id = kmsd.keygen("before").key_id
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "before")
        await pilot.press("G", "k", "/", *"before", "enter", "l")
        await until(pilot, "Relabel before", "the key has this label already")
        await pilot.press(*"after")
        await until(pilot, "after", "Relabel before")
        await pilot.press("enter")
        await until(pilot, "before is now after", without="Relabel before")
    assert {(key.label, key.key_id) for key in kmsd.admin("ListKeys").keys} >= {("after", key_id)}


async def test_taking_the_write_label_away_wants_it_typed(kmsd: Kmsd) -> None:
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "● write")
        await pilot.press("l", *"elsewhere")
        await until(pilot, "this changes which key writes", "type the label to confirm")
        await pilot.press("enter")
        assert labels(kmsd) == {"k8s-kek"}
        await pilot.press("tab", *"k8s-kek", "enter")
        await until(pilot, "k8s-kek is now elsewhere", "○ DOWN")
    assert labels(kmsd) == {"elsewhere"}


async def test_a_key_that_wrote_before_is_relabelled_with_its_label_typed(kmsd: Kmsd) -> None:
    kmsd.admin("RotateKey")
    (old,) = labels(kmsd) - {"k8s-kek"}
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "● write")
        await pilot.press("/", *"kek@", "enter", "l", *"spare")
        await until(pilot, "what k8s-kms-plugin wrote as k8s-kek finds this key", "type the label to confirm")
        await pilot.press("enter")
        assert labels(kmsd) == {"k8s-kek", old}
        await pilot.press("tab", *old, "enter")
        await until(pilot, f"{old} is now spare")
    assert labels(kmsd) == {"k8s-kek", "spare"}


async def test_a_key_without_an_id_is_adopted_and_others_say_why_not(kmsd: Kmsd, token: SoftToken) -> None:
    token.import_aes("found", bytes(32), None)
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "✕ unusable")
        await pilot.press("home", "a")
        await until(pilot, "Adopt: it has a key id already")
        await pilot.press("/", *"unusable", "enter", "a")
        await until(pilot, "Adopt found", "keys adopt found")
        await pilot.click("#ok")
        await until(pilot, "found has the key id ")
    key = next(key for key in kmsd.admin("ListKeys").keys if key.label == "found")
    assert key.key_id
    assert key.state == admin.KEY_STATE_READABLE


async def test_a_used_key_is_retired_only_with_its_label_typed(kmsd: Kmsd) -> None:
    with under_load(kmsd):
        pass
    kmsd.admin("RotateKey")
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "◦ reads")
        await pilot.press("home", "R")
        await until(pilot, "Retire: it writes: rotate first")
        await pilot.press("/", *"@", "enter", "R")
        screen = await until(pilot, "Retire k8s-kek@", "will not help")  # the dry run
        assert "→ " in screen
        old = next(key.label for key in kmsd.admin("ListKeys").keys if "@" in key.label)
        await pilot.click("#confirm")
        await paste(pilot, old)
        await pilot.press("enter")
        await until(pilot, "is retired: it still decrypts", "▽ retired")


async def test_destroying_begins_at_cancel_and_wants_the_label(start_kmsd: Start) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    kmsd.keygen("spare")
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "spare")
        await pilot.press("/", *"spare", "enter", "D")
        await until(pilot, "Destroy spare", "nothing speaks against destroying spare", "type the label to confirm")
        await pilot.press("enter")  # on Cancel
        await until(pilot, "Keys (1 of 2)", without="Destroy spare")
        assert labels(kmsd) == {"k8s-kek", "spare"}
        await pilot.press("D")
        await until(pilot, "Destroy spare")
        await pilot.click("#confirm")
        await pilot.press(*"spar", "enter")
        await until(pilot, "type the label to confirm")
        await pilot.press("e", "enter")
        await until(pilot, "destroyed spare (AES-256", "Keys (0 of 1)")
    assert labels(kmsd) == {"k8s-kek"}


async def test_a_key_removed_under_the_cursor_says_so(kmsd: Kmsd, token: SoftToken) -> None:
    kmsd.keygen("doomed")
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "doomed")
        await pilot.press("/", *"doomed", "enter", "T")
        await until(pilot, "every answer right")
        token.destroy("doomed")
        await pilot.click("#ok")
        await until(pilot, "✕ ", "will not help")
        await pilot.press("escape")
        await until(pilot, "Keys (0 of 1)", "nothing matches")
        await pilot.press("T")
        await until(pilot, "Test: no key is chosen")


async def test_the_filter_keeps_matching_keys_and_inverts(kmsd: Kmsd) -> None:
    kmsd.keygen("archive-2024")
    async with app_on(kmsd).run_test() as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("slash", *"^arch")
        screen = await until(pilot, "Keys (1 of 2)", "archive-2024")
        assert "● write" not in screen
        await pilot.press("enter")
        await until(pilot, "Keys (1 of 2)  /^arch")
        await pilot.press("slash", "home", "!")
        await until(pilot, "Keys (1 of 2)  /!^arch", "● write", without="archive-2024")
        await pilot.press(*"(")
        await until(pilot, "not a regular expression", "Keys (1 of 2)  /!^arch")
        await pilot.press("escape")
        await until(pilot, "Keys (2)", "● write", without="regular expression")


async def test_ids_and_rows_are_copied(kmsd: Kmsd) -> None:
    other = kmsd.keygen("zz-other")
    app = app_on(kmsd)
    async with app.run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("/", *"zz", "enter")
        await until(pilot, "Keys (1 of 2)", other.key_id)
        await pilot.press("c")
        await until(pilot, "copied")
        assert app.clipboard == other.key_id
        await pilot.press("y")
        await until(pilot, "as JSON")
        document = json.loads(app.clipboard)
        assert (document["label"], document["key_id"], document["bits"]) == ("zz-other", other.key_id, 256)


async def test_columns_sort_by_key_and_by_mouse_and_enter_opens(kmsd: Kmsd) -> None:
    kmsd.keygen("aaa")
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await pilot.press("3")
        screen = await until(pilot, "Keys (2)", "state▴")
        assert screen.index("● write  ") < screen.index("aaa")
        await pilot.press("s")
        screen = await until(pilot, "label▴")
        assert screen.index("aaa") < screen.index("● write")
        await pilot.press("S")
        screen = await until(pilot, "label▾")
        assert screen.index("● write") < screen.index("  aaa")
        column = line_with(screen, "label▾").index("hash")
        await pilot.click("Table", offset=(column - 1, 0))
        await until(pilot, "hash▴")
        await pilot.press("home", "enter")
        await until(pilot, "Esc closes, y copies as JSON", "sha256")


async def test_unusable_keys_say_why_and_labels_are_harmless(kmsd: Kmsd, token: SoftToken) -> None:
    token.objects(
        {"do": "import", "type": "aes", "label": "[red]x[/", "value": "11" * 32, "id": "01"},
        {"do": "import", "type": "aes", "label": "bell\x07\x1b[31m", "value": "22" * 32, "id": ""},
        {"do": "import", "type": "aes", "label": "日本語", "value": "33" * 32, "id": "30"},
    )
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await pilot.press("3")
        screen = await until(pilot, "Keys (4)", "✕ unusable")
        assert "[red]x[/" in screen
        assert "日本語" in screen
        assert "\x1b" not in screen
        assert "\x07" not in screen
        assert r"bell\x07\x1b[31m" in screen
        await pilot.press("slash", *"unusable", "enter")
        await until(pilot, "Keys (1 of 4)", "✕ it has no CKA_ID")
        await pilot.press("l")
        await until(pilot, r"Relabel bell\x07\x1b[31m")
