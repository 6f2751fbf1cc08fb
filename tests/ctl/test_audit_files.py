"""`kmsctl audit verify FILE...`: the proof from files alone, without any kmsd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmsd.auditchain import Head, Record
from tests.ctl.conftest import Run
from tests.observe.chains import chain, lines

CHAIN = chain(30)


def write(path: Path, records: list[Record]) -> str:
    path.write_bytes(b"".join(lines(records)))
    return str(path)


@pytest.fixture
def trail(tmp_path: Path) -> list[str]:
    """Three files, given in an order that is not theirs."""
    return [
        write(tmp_path / "audit.jsonl", CHAIN[20:]),
        write(tmp_path / "audit-1.jsonl", CHAIN[:10]),
        write(tmp_path / "audit-11.jsonl", CHAIN[10:20]),
    ]


def told(head: Head) -> str:
    return f"{head.seq}:{head.hash}"


def test_files_are_put_in_order_and_found_intact(run: Run, trail: list[str]) -> None:
    result = run("audit", "verify", *trail, "-o", "json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert (found["intact"], found["records"], found["first_seq"], found["last_seq"]) == (True, 30, 1, 30)
    assert found["head"] == CHAIN[-1].hash
    assert [Path(file).name for file in found["files"]] == ["audit-1.jsonl", "audit-11.jsonl", "audit.jsonl"]


@pytest.mark.parametrize("damage", ["changed", "dropped", "moved", "repeated"])
def test_damage_is_1_and_says_which_line(run: Run, tmp_path: Path, damage: str) -> None:
    kept = lines(CHAIN)
    match damage:
        case "changed":
            kept[7] = kept[7].replace(b"OK", b"KO")
        case "dropped":
            del kept[7]
        case "moved":
            kept[7], kept[8] = kept[8], kept[7]
        case "repeated":
            kept.insert(8, kept[7])
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"".join(kept))
    result = run("audit", "verify", str(file))
    assert result.code == 1
    assert result.text.startswith("TRAIL     BROKEN\n")
    line = {"changed": 8, "dropped": 8, "moved": 8, "repeated": 9}[damage]
    assert f"kmsctl: error: the audit trail is broken: {file} line {line} (seq " in result.err


def test_a_head_kept_elsewhere_shows_an_end_that_was_cut_off(run: Run, tmp_path: Path) -> None:
    short = write(tmp_path / "audit.jsonl", CHAIN[:20])
    assert run("audit", "verify", short).code == 0
    assert run("audit", "verify", short, "--head", told(CHAIN[9].head)).code == 0
    result = run("audit", "verify", short, "--head", told(CHAIN[9].head), "--head", told(CHAIN[29].head))
    assert result.code == 1
    assert "record 30 is known to have been written" in result.err


def test_the_head_that_is_shown_is_the_head_that_is_taken(run: Run, trail: list[str]) -> None:
    (shown,) = (line.split()[1] for line in run("audit", "verify", *trail).text.splitlines() if "HEAD" in line)
    assert shown == told(CHAIN[-1].head)
    assert run("audit", "verify", *trail, "--head", shown).code == 0


def test_a_beginning_that_is_not_there_is_said(run: Run, tmp_path: Path) -> None:
    result = run("audit", "verify", write(tmp_path / "audit.jsonl", CHAIN[10:]))
    assert (result.code, result.err) == (
        0,
        "kmsctl: these files begin with record 11; of those before it they prove nothing\n",
    )


def test_no_kmsd_and_no_grpc_is_needed(run: Run, trail: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] in ("grpc", "google")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)  # what is None cannot be imported
    assert run("audit", "verify", *trail).code == 0


def test_what_is_no_trail_is_broken_and_not_taken_for_one(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text("not a record\n")
    result = run("audit", "verify", str(file))
    assert result.code == 1
    assert "is no record" in result.err


def test_an_empty_file_holds_no_records(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    assert json.loads(run("audit", "verify", str(file), "-o", "json").out) == {
        "intact": True,
        "records": 0,
        "first_seq": 0,
        "last_seq": 0,
        "head": None,
        "files": [str(file)],
        "problem": None,
    }
