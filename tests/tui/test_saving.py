"""Rows saved to files: by the dialog on a real kmsd, and in each format."""

from __future__ import annotations

import csv
import io
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.client import InvalidRequest
from kmstui import saving
from kmstui.screens.audit import AUDIT
from kmstui.screens.keys import KEYS
from tests.daemons import Kmsd
from tests.tui.conftest import app_on
from tests.tui.scenes.daemon import KEYS as SOME
from tests.tui.scenes.records import audit
from tests.tui.scenes.when import MOMENT
from tests.tui.screen import flat, paste, until


@pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])
async def test_a_table_is_saved_and_nothing_is_overwritten_without_asking(
    kmsd: Kmsd, tmp_path: Path, size: tuple[int, int]
) -> None:
    kmsd.keygen("other")
    file = tmp_path / "all.json"
    async with app_on(kmsd).run_test(size=size, notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)")
        await pilot.press("W")
        await until(pilot, "Save keys", "2 rows of the table")
        pilot.app.screen.query_one("#path").focus()
        await pilot.press("ctrl+e", "ctrl+u")
        await until(pilot, "name a file")
        await paste(pilot, str(file.with_suffix(".doc")))
        await until(pilot, "end it in .csv, .json or .txt")
        await pilot.press("ctrl+u")
        await paste(pilot, str(file))
        screen = flat(await until(pilot, "all.json", without="end it in"))
        assert "keys list -o json > " in screen
        await pilot.press("enter")
        await until(pilot, "saved 2 rows", without="Save keys")
        assert {row["label"] for row in json.loads(file.read_text())} == {"k8s-kek", "other"}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

        file.write_text("mine")
        await pilot.press("space", "W")
        await until(pilot, "1 marked row")
        pilot.app.screen.query_one("#path").focus()
        await pilot.press("ctrl+u")
        await paste(pilot, str(file))
        await pilot.press("enter")
        await until(pilot, " is there already", "press Overwrite", "  Overwrite ")
        assert file.read_text() == "mine"
        await pilot.press("enter")
        await until(pilot, "saved 1 row,", without="Save keys")
        assert len(json.loads(file.read_text())) == 1


async def test_rows_are_saved_while_kmsd_is_away(kmsd: Kmsd, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    async with app_on(kmsd).run_test(notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (1)")
        kmsd.stop()
        await until(pilot, "✕ NO ANSWER")
        await pilot.press("W")
        await until(pilot, "Save keys")
        pilot.app.screen.query_one("#path").focus()
        await pilot.press("ctrl+u")
        await paste(pilot, str(file))
        await pilot.press("enter")
        await until(pilot, "saved 1 row")
    assert "k8s-kek" in file.read_text()


def test_csv_holds_every_field_and_nothing_that_a_spreadsheet_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    evil = replace(SOME[0], label='=cmd|"/c calc"!A1')
    size = saving.save(path, KEYS, (*SOME, evil), MOMENT)
    assert path.stat().st_size == size
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert [row["label"] for row in rows[:2]] == [key.label for key in SOME[:2]]
    assert rows[-1]["label"] == "'" + evil.label
    assert rows[-2]["label"] == r"bell\x07\x1b[31m"
    assert rows[0]["bits"] == "256"
    assert rows[0]["sensitive"] == "true"


def test_text_has_every_column_uncut_and_json_the_records_themselves(tmp_path: Path) -> None:
    records = [row.item for row in audit().items]
    path = tmp_path / "audit.txt"
    saving.save(path, AUDIT, audit().items, MOMENT)
    head, *lines = path.read_text().splitlines()
    assert head.split() == [column.title for column in AUDIT.columns if column.title]
    assert len(lines) == len(records)
    saving.save(path.with_suffix(".json"), AUDIT, audit().items, MOMENT)
    assert [row["seq"] for row in json.loads(path.with_suffix(".json").read_text())] == [each.seq for each in records]
    saving.save(tmp_path / "none.json", AUDIT, (), MOMENT)
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_too_much_and_what_is_no_file_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "MOST_BYTES", 1 << 12)
    many = SOME * 100
    path = tmp_path / "keys.json"
    with pytest.raises(InvalidRequest, match="takes more than"):
        saving.save(path, KEYS, many, MOMENT)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(InvalidRequest, match="takes more than"):
        saving.save(path, KEYS, many, MOMENT, overwrite=True)
    assert path.read_text() == "mine"
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InvalidRequest, match="is no file"):
        saving.save(tmp_path / "folder.json", KEYS, SOME, MOMENT, overwrite=True)
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(saving.Exists):
        saving.save(tmp_path / "link.json", KEYS, SOME, MOMENT)
    with pytest.raises(InvalidRequest, match="cannot be written: No such file or directory"):
        saving.save(tmp_path / "none" / "keys.json", KEYS, SOME, MOMENT)
    assert {each.name for each in tmp_path.iterdir()} == {"keys.json", "folder.json", "link.json"}
