"""`kmsctl audit verify FILE...`: the proof from files alone, without any kmsd."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.audit.chain import Head, Record
from tests.ctl.conftest import Run
from tests.observe.chains import chain, lines

CHAIN = chain(30)
OTHER = chain(25, begin=100)
"""Another chain."""


def told(head: Head) -> str:
    return f"{head.seq}:{head.hash}"


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


def test_a_beginning_that_is_not_there_is_1_and_says_what_would_do(run: Run, tmp_path: Path) -> None:
    result = run("audit", "verify", file := write(tmp_path / "audit.jsonl", CHAIN[10:]))
    assert result.code == 1
    assert result.text.startswith("TRAIL     BROKEN\n")
    assert result.err == (
        f"kmsctl: error: the audit trail is broken: {file} line 1 (seq 11): the chain begins here, but records 1 to 10 "
        "should come before: cut off\n"
        "hint: if kmsd deleted them by plan (audit.keep): --begins-at 11, or better a --head from before\n"
    )


ANCHORS = {
    "it begins where it is said to": (["--begins-at", "11"], 0),
    "it begins earlier": (["--begins-at", "15"], 0),
    "it begins later": (["--begins-at", "10"], 1),
    "a head right before it": (["--head", told(CHAIN[9].head)], 0),
    "a head in it": (["--head", told(CHAIN[14].head)], 0),
    "a head that it no longer reaches back to": (["--head", told(CHAIN[8].head)], 1),
    "one head in it and one that it does not reach": (
        ["--head", told(CHAIN[14].head), "--head", told(CHAIN[4].head)],
        1,
    ),
    "a head that it does not reach, and a beginning": (["--head", told(CHAIN[4].head), "--begins-at", "11"], 0),
    "another head right before it": (["--head", told(replace(CHAIN[9].head, hash="ab" * 32))], 1),
    "another head in it": (["--head", told(replace(CHAIN[14].head, hash="ab" * 32))], 1),
}


@pytest.mark.parametrize("what", ANCHORS)
def test_a_trail_whose_beginning_was_deleted_by_plan_is_proved_from_what_is_known(
    run: Run, tmp_path: Path, what: str
) -> None:
    anchors, code = ANCHORS[what]
    result = run("audit", "verify", write(tmp_path / "audit-11.jsonl", CHAIN[10:]), *anchors)
    assert result.code == code, result.err
    if code == 0:
        assert result.err == "kmsctl: the files begin with record 11; of those before it they prove nothing\n"


@pytest.fixture
def both(tmp_path: Path) -> list[str]:
    """The files of two chains, as `audit*.jsonl` names them."""
    return [
        write(tmp_path / "audit-1.jsonl", CHAIN[:10]),
        write(tmp_path / "audit-kms-9.jsonl", OTHER[8:16]),
        write(tmp_path / "audit-kms.jsonl", OTHER[16:]),
        write(tmp_path / "audit.jsonl", CHAIN[10:]),
    ]


def test_each_chain_is_proved_and_has_its_head(run: Run, both: list[str]) -> None:
    assert run("audit", "verify", *both).code == 1
    result = run("audit", "verify", *both, "--begins-at", "kms:9")
    assert (result.code, result.err) == (
        0,
        "kmsctl: the files of the KMS APIs begin with record 9; of those before it they prove nothing\n",
    )
    heads = [line.split()[1] for line in result.text.splitlines() if "HEAD" in line]
    assert heads == [told(CHAIN[-1].head), f"kms:{told(OTHER[-1].head)}"]
    for head in heads:
        assert run("audit", "verify", *both, "--begins-at", "kms:9", "--head", head).code == 0
    assert run("audit", "verify", *both, "--head", f"kms:{told(OTHER[7].head)}").code == 0
    # What is known of one says nothing of the other.
    assert run("audit", "verify", *both, "--begins-at", "9").code == 1
    assert run("audit", "verify", *both, "--begins-at", "kms:9", "--head", told(OTHER[-1].head)).code == 1


def test_a_chain_of_the_kms_apis_alone_is_proved_like_any(run: Run, both: list[str]) -> None:
    kms = both[1:3]
    for anchor in (told(OTHER[-1].head), f"kms:{told(OTHER[-1].head)}"):
        result = run("audit", "verify", *kms, "--head", anchor)
        assert result.code == 0
        assert f"HEAD      kms:{told(OTHER[-1].head)}\n" in result.text
    refused = run("audit", "verify", both[0], "--head", f"kms:{told(OTHER[-1].head)}")
    assert refused.code == 2
    assert "none of its files is among the FILEs" in refused.err


def test_damage_of_the_second_chain_is_1(run: Run, both: list[str]) -> None:
    path = Path(both[2])
    path.write_bytes(path.read_bytes().replace(b"RotateKey", b"NotateKey", 1))
    result = run("audit", "verify", *both, "--begins-at", "kms:9", "-o", "json")
    assert result.code == 1
    found = json.loads(result.out)
    assert (found["intact"], found["records"]) == (False, 30)
    assert [chain["intact"] for chain in found["chains"]] == [True, False]
    assert "audit-kms.jsonl line " in found["problem"]


def test_a_name_of_ones_own_makes_no_second_chain(run: Run, tmp_path: Path) -> None:
    """kmsd may have been told to write to node-kms.jsonl."""
    files = [write(tmp_path / "node-kms-1.jsonl", CHAIN[:10]), write(tmp_path / "node-kms.jsonl", CHAIN[10:])]
    assert run("audit", "verify", *files).code == 0
    files += [write(tmp_path / "node-kms-kms.jsonl", OTHER)]
    result = run("audit", "verify", *files, "-o", "json")
    assert result.code == 0
    assert [chain["records"] for chain in json.loads(result.out)["chains"]] == [30, 25]


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


def test_where_there_is_no_record_nothing_is_proved(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    result = run("audit", "verify", str(file), "-o", "json")
    assert result.code == 1
    assert result.err == (
        f"kmsctl: error: the audit trail is broken: {file}: there is no record, and so nothing is proved\n"
        "hint: name the files of an audit trail\n"
    )
    found = json.loads(result.out)
    assert (found["intact"], found["records"], found["head"]) == (False, 0, None)
    # Beside one that holds records, too.
    other = tmp_path / "audit-kms.jsonl"
    other.touch()
    assert run("audit", "verify", write(tmp_path / "audit.jsonl", CHAIN), str(other)).code == 1


def test_a_trail_that_lost_its_end_to_the_first_record_is_found_by_a_head(run: Run, tmp_path: Path) -> None:
    short = write(tmp_path / "audit.jsonl", CHAIN[:1])
    assert run("audit", "verify", short, "--head", told(CHAIN[0].head)).code == 0
    assert run("audit", "verify", short, "--head", told(CHAIN[1].head)).code == 1
