"""The chain of audit records: its lines, and that no tampering goes unseen."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kmsd.audit.chain import (
    MAX_LINE,
    START,
    Entry,
    Head,
    NotARecord,
    Record,
    Source,
    bounded,
    files_of,
    make,
    parse,
    tail,
    verify,
    verify_files,
)
from kmsd.audit.chain.proof import MAX_FINDINGS
from tests.observe.chains import chain, check, entry, found, lines

TEN = chain(10)
LINES = lines(TEN)
HEAD = TEN[-1].head


def test_a_line_is_what_the_documentation_says() -> None:
    record = make(replace(entry(0), unix_ms=1_767_323_045_678, detail="", latency_ms=1.20449), Head(56, "ab" * 32))
    members = json.loads(record.line)
    assert list(members) == [
        "seq", "time", "kind", "action", "caller", "key_id_sha256", "outcome", "latency_ms", "detail", "prev", "hash",
    ]  # fmt: skip
    assert (members["seq"], members["prev"]) == (57, "ab" * 32)
    assert members["time"] == "2026-01-02T03:04:05.678Z"
    assert members["latency_ms"] == 1.204
    del members["hash"]
    # As anybody would do it who knows the rule: the hash is over the line without its hash.
    body = json.dumps(members, separators=(",", ":"))
    assert record.hash == hashlib.sha256(body.encode()).hexdigest()


def test_why_a_call_failed_is_a_member_of_its_own_and_of_its_line_alone() -> None:
    """Lines without it are as they always were: a chain may have both."""
    before, failed = make(entry(0), START), replace(entry(1), outcome="NOT_FOUND", reason="no key has the id 'x'")
    after = make(failed, before.head)
    assert "reason" not in json.loads(before.line)
    assert list(json.loads(after.line))[-4:] == ["detail", "reason", "prev", "hash"]
    assert [parse(each.line.encode()).reason for each in (before, after)] == ["", "no key has the id 'x'"]
    first, second = lines([before, after])
    assert check([first, second]).intact
    assert not check([first, second.replace(b"no key", b"a key")]).intact


TEXT = st.text(st.characters(codec=None), max_size=60) | st.text(max_size=3000)


@given(
    st.builds(
        Entry,
        unix_ms=st.integers(-(2**70), 2**70),
        kind=st.sampled_from(["admin", "kms", "event"]),
        action=TEXT,
        caller=TEXT,
        key_id_sha256=TEXT,
        outcome=TEXT,
        latency_ms=st.floats(),
        detail=TEXT,
        reason=TEXT,
    ),
    st.integers(0, 2**62),
)
def test_whatever_a_caller_sends_is_one_line_of_bounded_length_that_reads_back(given_entry: Entry, seq: int) -> None:
    record = make(given_entry, Head(seq, "0" * 64))
    raw = record.line.encode("ascii") + b"\n"
    assert raw.count(b"\n") == 1
    assert len(raw) < 3000 < MAX_LINE
    assert parse(raw) == record
    assert record.intact


@given(st.text(st.characters(codec=None)), st.integers(3, 40))
def test_a_text_is_cut_at_a_whole_character_and_only_if_it_must_be(text: str, most: int) -> None:
    cut = bounded(text, most)
    assert len(json.dumps(cut)) - 2 <= most
    if cut != text:
        assert len(json.dumps(text)) - 2 > most
        assert cut.endswith("...")
        assert text.startswith(cut[:-3])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"null",
        b"[" * 4000,
        b'{"seq":1}',
        LINES[0].replace(b'"seq":1,', b'"seq":true,'),
        LINES[0].replace(b'"seq":1,', b'"seq":0,'),
        LINES[0].replace(b'"seq":1,', b'"seq":' + b"9" * 30 + b","),
        LINES[0].replace(b'"seq":1,', b'"seq": 1,'),
        LINES[0].replace(b'"kind":"kms"', b'"kind":"other"'),
        LINES[0].replace(b'"latency_ms":0.0', b'"latency_ms":NaN'),
        LINES[0].replace(b'"latency_ms":0.0', b'"latency_ms":"1"'),
        LINES[0].replace(b"2027-01-15T", b"2027-13-15T"),
        LINES[0].replace(b"2027-01-15T", b"2027-01-15 "),
        LINES[0].replace(b'"caller":""', b'"caller":null'),
        LINES[0].replace(b'"caller":""', b'"caller":"\xff"'),
        LINES[0].replace(b"}\n", b"}\r\n"),
        LINES[0].replace(b"}\n", b" }\n"),
        b" " + LINES[0],
        LINES[0] + LINES[1],
        b'{"seq":1,' + b" " * MAX_LINE + LINES[0][9:],
    ],
)
def test_what_kmsd_did_not_write_is_no_record(raw: bytes) -> None:
    assert raw != LINES[0]
    with pytest.raises(NotARecord):
        parse(raw)


def test_members_that_a_later_kmsd_adds_are_no_fault() -> None:
    body = TEN[0].line[: -len(',"hash":""}') - 64].replace(',"prev"', ',"node":"n1","prev"') + "}"
    digest = hashlib.sha256(body.encode()).hexdigest()
    line = body[:-1] + f',"hash":"{digest}"}}'
    assert check([line.encode() + b"\n"]).intact


def test_an_untouched_chain_is_intact_over_one_file_and_over_several() -> None:
    for verdict in (
        check(LINES, known=[HEAD, TEN[4].head]),
        check(LINES[:3], LINES[3:4], [], LINES[4:], known=[HEAD]),
    ):
        assert verdict.intact
        assert verdict.problem == ""
        assert (verdict.records, verdict.first_seq, verdict.head) == (10, 1, HEAD)
    assert check().intact
    assert check([]).head == START


def test_a_chain_whose_old_files_are_deleted_begins_with_the_oldest_that_is_kept() -> None:
    verdict = check(LINES[4:7], LINES[7:], known=[HEAD, TEN[0].head], first_seq=5)
    assert verdict.intact
    assert (verdict.records, verdict.first_seq) == (6, 5)


@pytest.mark.parametrize("index", range(10))
def test_a_changed_line_is_found_and_named(index: int) -> None:
    for changed in (
        LINES[index].replace(b'"outcome":"OK"', b'"outcome":"NO"'),
        LINES[index].replace(f'"seq":{index + 1},'.encode(), b'"seq":77,'),
        LINES[index].replace(TEN[index].hash.encode(), b"0" * 64),
        LINES[index][:50] + LINES[index][60:],
        b"nothing\n",
        b"x" * 3 * MAX_LINE + b"\n",
    ):
        verdict = check([*LINES[:index], changed, *LINES[index + 1 :]], known=[HEAD])
        assert found(verdict) == [("changed", "a", index + 1, index + 1)]
        assert verdict.problem.startswith(f"a line {index + 1} (seq {index + 1}): ")


@pytest.mark.parametrize("index", range(10))
def test_a_changed_line_with_a_new_hash_is_found_at_the_next(index: int) -> None:
    forged = make(replace(entry(index), outcome="NO"), TEN[index - 1].head if index else START)
    verdict = check([*LINES[:index], *lines([forged]), *LINES[index + 1 :]], known=[HEAD])
    assert found(verdict) == [("replaced", "a", min(index + 2, 10), min(index + 2, 10))]


@pytest.mark.parametrize("index", range(10))
def test_a_dropped_line_is_found_and_named(index: int) -> None:
    verdict = check([*LINES[:index], *LINES[index + 1 :]], known=[HEAD])
    if index == 0:
        assert found(verdict) == [("begins late", "a", 1, 2)]
    elif index == 9:
        assert found(verdict) == [("cut off", "a", 9, 10)]
        assert "record 10 is known to have been written" in verdict.problem
    else:
        assert found(verdict) == [("missing", "a", index + 1, index + 2)]
        assert f"record {index + 1} should come before it" in verdict.problem


def test_a_whole_file_that_is_gone_is_found() -> None:
    verdict = check(LINES[:3], LINES[6:], known=[HEAD])
    assert found(verdict) == [("missing", "b", 1, 7)]
    assert "records 4 to 6 should come before it" in verdict.problem


@pytest.mark.parametrize("index", range(10))
def test_a_line_from_elsewhere_that_was_put_in_is_found(index: int) -> None:
    for foreign in (b"nothing\n", b"\n", LINES[index].replace(b"OK", b"NO")):
        verdict = check([*LINES[:index], foreign, *LINES[index:]], known=[HEAD])
        assert found(verdict) == [("inserted", "a", index + 1, 0)]


@pytest.mark.parametrize("index", range(10))
def test_a_forged_record_put_in_is_found(index: int) -> None:
    forged = make(replace(entry(3), detail="forged"), TEN[index - 1].head if index else START)
    verdict = check([*LINES[:index], *lines([forged]), *LINES[index:]], known=[HEAD])
    assert ("repeated", "a", index + 2, index + 1) in found(verdict)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(range(10), 2)))
def test_two_lines_that_changed_places_are_found(first: int, second: int) -> None:
    tampered = list(LINES)
    tampered[first], tampered[second] = tampered[second], tampered[first]
    verdict = check(tampered, known=[HEAD])
    assert not verdict.intact
    assert verdict.findings[0].line == first + 1
    if first:
        assert ("missing", "a", first + 1, second + 1) in found(verdict)
        assert ("moved", "a", second + 1, first + 1) in found(verdict)


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("place", range(11))
def test_a_repeated_line_is_found_where_it_stands_again(index: int, place: int) -> None:
    verdict = check([*LINES[:place], LINES[index], *LINES[place:]], known=[HEAD])
    assert not verdict.intact
    if place > index:
        assert found(verdict) == [("repeated", "a", place + 1, index + 1)]


@pytest.mark.parametrize("kept", [1, 5, 100, -2, -1])
def test_a_torn_last_line_is_found(kept: int) -> None:
    verdict = check([*LINES[:9], LINES[9][:kept]])
    assert found(verdict) == [("torn", "a", 10, 0)]
    assert verdict.records == (10 if kept == -1 else 9)


def test_a_line_torn_in_the_middle_of_the_chain_is_a_changed_line() -> None:
    assert found(check([*LINES[:4], LINES[4][:70]], LINES[5:], known=[HEAD])) == [("changed", "a", 5, 5)]


def test_an_end_that_was_written_anew_shows_against_a_head_known_from_elsewhere() -> None:
    forged = [*TEN[:7], make(entry(50), TEN[6].head)]
    forged += chain(4, forged[-1].head)
    assert check(lines(forged)).intact, "nobody can tell from the files alone"
    verdict = check(lines(forged), known=[HEAD])
    assert found(verdict) == [("replaced", "a", 10, 10)]
    assert HEAD.hash[:8] in verdict.problem
    assert check(lines(forged), known=[TEN[6].head]).intact, "what is older than the forgery is still what it was"


def test_all_records_gone_shows_against_a_known_head() -> None:
    assert found(check([], known=[HEAD])) == [("cut off", "a", 0, 10)]
    assert found(check(known=[HEAD])) == [("cut off", "the audit", 0, 10)]


def test_the_findings_are_bounded_and_the_rest_is_counted() -> None:
    verdict = check([*LINES, *[b"x\n", *LINES] * 100], known=[HEAD])
    assert len(verdict.findings) == MAX_FINDINGS
    assert verdict.more > 500
    assert verdict.problem.endswith(f"and {len(verdict.findings) + verdict.more - 1} more")
    assert len(check([b"x\n"] * 500).findings) == MAX_FINDINGS


@given(st.data())
def test_no_single_edit_goes_unseen(data: st.DataObject) -> None:
    """Bytes replaced, put in or taken out anywhere."""
    whole = b"".join(LINES)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + data.draw(st.sampled_from([0, 1, 2, 30, 700])))))
    new = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"}", b'"', b"0", b"\n\n", LINES[3], b""]))
    tampered = whole[:start] + new + whole[end:]
    assume(tampered != whole)
    verdict = verify([Source("a", io.BytesIO(tampered), first_seq=1)], [HEAD])
    assert not verdict.intact
    untouched = whole[:start].count(b"\n")
    assert verdict.findings[0].line == 0 or verdict.findings[0].line >= min(untouched, 9)


@given(st.permutations(range(10)), st.integers(0, 10), st.integers(0, 10))
def test_no_other_order_of_the_lines_goes_unseen(order: list[int], count: int, cut: int) -> None:
    tampered = [LINES[n] for n in order[:count]]
    assume(order[:count] != list(range(10)))
    assert not check(tampered[:cut], tampered[cut:], known=[HEAD]).intact


@given(st.lists(st.sampled_from([*LINES, *[line[:40] + b"\n" for line in LINES], b"\n", b"x" * 9000]), max_size=30))
def test_any_heap_of_lines_gets_a_verdict(heap: list[bytes]) -> None:
    verdict = check(heap, known=[HEAD])
    assert verdict.intact == (heap == LINES)
    assert all(str(finding) for finding in verdict.findings)


def test_the_files_of_a_chain_are_found_in_order_and_no_others(tmp_path: Path) -> None:
    current = tmp_path / "audit.jsonl"
    for name in ("audit-101.jsonl", "audit-9.jsonl", "audit.jsonl", "audit-torn-9", "audit-09.jsonl", "xaudit-1.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in files_of(current)] == ["audit-9.jsonl", "audit-101.jsonl", "audit.jsonl"]
    current.unlink()
    assert [path.name for path in files_of(current)] == ["audit-9.jsonl", "audit-101.jsonl"]


def test_files_are_checked_where_they_lie(tmp_path: Path) -> None:
    current = tmp_path / "audit.jsonl"
    (tmp_path / "audit-5.jsonl").write_bytes(b"".join(LINES[4:7]))
    current.write_bytes(b"".join(LINES[7:]))
    verdict = verify_files(current, [HEAD])
    assert verdict.intact
    assert (verdict.first_seq, verdict.files) == (5, (str(tmp_path / "audit-5.jsonl"), str(current)))
    # The name says with which record a file begins, so its first lines cannot be cut off unseen.
    (tmp_path / "audit-5.jsonl").write_bytes(b"".join(LINES[5:7]))
    assert verify_files(current, [HEAD]).findings[0].what == "begins late"
    (tmp_path / "audit-5.jsonl").unlink()
    assert verify_files(current, [HEAD]).findings[0].what == "begins late"


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "audit.jsonl").open("wb") as file:
        file.write(b"".join(LINES))
        file.truncate(64 * 1024 * 1024)  # as a crash of the machine may leave it: zeros, on no disk
    tracemalloc.start()
    try:
        verdict = verify_files(tmp_path / "audit.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found(verdict) == [("torn", str(tmp_path / "audit.jsonl"), 11, 0)]
    assert peak < 1024 * 1024


@given(st.integers(0, 12), st.integers(1, 4), st.lists(st.integers(0, 10), max_size=3))
def test_the_last_records_are_read_over_files_in_pages(count: int, page: int, cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), 10]
    files = [b"".join(LINES[begin:end]) for begin, end in itertools.pairwise(ends)]
    pages = list(tail([[Source("f", io.BytesIO(file)) for file in files]], count, page))
    assert [record for each in pages for _, record in each] == TEN[10 - min(10, count) :]
    assert all(1 <= len(each) <= page for each in pages)


@pytest.mark.parametrize("count", [0, 1, 7, 20, 30])
def test_the_last_records_of_two_chains_come_by_their_times(count: int) -> None:
    """Of two at the same time that of the first chain comes first."""
    entries = [entry(n) for n in range(10)]
    first, second = _chained(entries), _chained([replace(each, detail="second") for each in entries])
    everything = [told for each in zip(first, second, strict=True) for told in enumerate(each)]
    sources = [[Source("f", io.BytesIO(b"".join(lines(records))))] for records in (first, second)]
    found_records = [each for page in tail(sources, count, 3) for each in page]
    assert found_records == everything[max(0, 20 - count) :]


def _chained(entries: Sequence[Entry]) -> list[Record]:
    records: list[Record] = []
    for each in entries:
        records.append(make(each, records[-1].head if records else START))
    return records


def test_the_last_records_of_a_file_are_found_over_blocks_and_up_to_a_size() -> None:
    records = chain(700)
    whole = b"".join(lines(records))
    assert len(whole) > 3 * 65536
    for count in (1, 100, 350, 699, 700, 701):
        (page,) = tail([[Source("f", io.BytesIO(whole + b"torn"), size=len(whole))]], count, 1000)
        found_records = [record for _, record in page]
        assert found_records == records[-count:]


def test_lines_that_are_no_records_are_passed_over() -> None:
    heap = [LINES[0], b"x" * 100_000 + b"\n", LINES[1], b"\n", LINES[2][:50]]
    assert list(tail([[Source("f", io.BytesIO(b"".join(heap)))]], 10, 10)) == [[(0, record) for record in TEN[:2]]]


@pytest.mark.processes
def test_it_knows_nothing_of_ours() -> None:
    report = "import sys, kmsd.audit.chain; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    ours = {name for name in done.stdout.split() if name.split(".")[0] == "kmsd"}
    assert {name for name in ours if not name.startswith("kmsd.audit.chain")} == {"kmsd", "kmsd.audit"}
