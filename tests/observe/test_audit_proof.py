"""The audit of a kmsd: tampering with its files is found and named."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.audit.chain import START, Record, make, parse
from tests.observe.auditing import running, written


async def test_the_proof_holds_while_records_are_written(directory: Path) -> None:
    async with running(directory, kms="all", max_bytes=20_000, keep=3) as audit:
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                for n in range(50):
                    audit.kms("Decrypt", "OK", seconds=n)
                for _ in range(10):
                    await audit.admin("GetStatus", "OK", seconds=0)

        writing = asyncio.create_task(write())
        verdict = (await audit.verify()).main
        while len((proof := await audit.verify()).kms.files) < 4:
            noted = verdict.head
            proof = await audit.verify([noted])
            verdict = proof.main
            assert proof.problem == ""
            assert verdict.head.seq >= noted.seq
        stop.set()
        await writing
        assert proof.main.head.seq > 10


def _edit(path: Path, change: Callable[[list[bytes]], None]) -> None:
    """In place, as an editor that is told to would: the file stays the same one."""
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    with path.open("r+b") as file:
        file.write(b"".join(lines))
        file.truncate()


def _drop(lines: list[bytes]) -> None:
    del lines[4]


def _drop_first(lines: list[bytes]) -> None:
    del lines[0]


def _drop_last(lines: list[bytes]) -> None:
    del lines[-1]


def _swap(lines: list[bytes]) -> None:
    lines[4], lines[5] = lines[5], lines[4]


def _repeat(lines: list[bytes]) -> None:
    lines.insert(5, lines[4])


def _insert(lines: list[bytes]) -> None:
    lines.insert(4, b"nothing\n")


def _change(lines: list[bytes]) -> None:
    lines[4] = lines[4].replace(b"action 5", b"action 6")


def _tear(lines: list[bytes]) -> None:
    lines[-1] = lines[-1][:-9]


def _rewrite(lines: list[bytes]) -> None:
    """Everything from the fifth on anew, with right hashes."""
    head = parse(lines[3]).head
    for n in range(4, len(lines)):
        record = make(replace(parse(lines[n]), caller="somebody else"), head)
        lines[n], head = record.line.encode() + b"\n", record.head


@pytest.mark.parametrize(
    ("tamper", "line", "says"),
    [
        (_change, 5, "its hash does not fit"),
        (_drop, 5, "record 5 should come before it"),
        (_drop_first, 1, "record 1 should come before: cut off"),
        (_drop_last, 9, "record 10 is known to have been written"),
        (_swap, 5, "record 5 should come before it"),
        (_repeat, 6, "once more: repeated"),
        (_insert, 5, "inserted"),
        (_tear, 10, "does not end with a newline"),
        (_rewrite, 10, "not the record that is known to have been written"),
    ],
)
async def test_tampering_with_the_files_of_a_running_kmsd_is_found_and_named(
    directory: Path, tamper: Callable[[list[bytes]], None], line: int, says: str
) -> None:
    async with running(directory) as audit:
        for n in range(1, 11):
            await audit.admin(f"action {n}", "OK", seconds=0)
        _edit(directory / "audit.jsonl", tamper)
        verdict = (await audit.verify()).main
        assert not verdict.intact
        assert verdict.problem.startswith(f"{directory}/audit.jsonl line {line}")
        assert says in verdict.problem
        # Recording goes on, and does not cover it up.
        assert await audit.admin("and on", "OK", seconds=0)
        assert written_last(directory).action == "and on"
        assert not (await audit.verify()).intact


def written_last(directory: Path) -> Record:
    return parse((directory / "audit.jsonl").read_bytes().splitlines()[-1])


def test_a_hash_can_be_computed_by_hand_as_the_documentation_says(directory: Path) -> None:
    asyncio.run(_recorded(directory, '"hash":"00"}'))
    (record,) = written(directory)
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    (command,) = re.findall(r"```sh\n(.*sha256sum)\n```", text)
    done = subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [record.hash, "-"]


async def _recorded(directory: Path, detail: str) -> None:
    async with running(directory) as audit:
        assert await audit.admin("RotateKey", "OK", seconds=0, detail=detail)


async def test_tampering_while_kmsd_is_away_is_found_by_a_head_noted_before(directory: Path) -> None:
    async with running(directory) as audit:
        for n in range(1, 11):
            await audit.admin(f"action {n}", "OK", seconds=0)
        noted = (await audit.verify()).main.head
    _edit(directory / "audit.jsonl", _rewrite)
    async with running(directory) as audit:
        await audit.admin("and on", "OK", seconds=0)
        assert (await audit.verify()).intact, "no chain without a secret can tell"
        verdict = await audit.verify([noted])
        assert "line 10 (seq 10)" in verdict.problem


async def test_a_file_that_is_deleted_under_kmsd_is_noticed(directory: Path) -> None:
    async with running(directory) as audit:
        await audit.admin("before", "OK", seconds=0)
        (directory / "audit.jsonl").unlink()
        assert await audit.admin("after", "OK", seconds=0)
        records = written(directory)
        assert [record.seq for record in records] == list(range(2, len(records) + 2))
        assert {record.action for record in records[:-1]} == {"audit disturbed"}
        assert "deleted or moved away" in records[0].detail
        verdict = (await audit.verify()).main
        assert [(each.what, each.line) for each in verdict.findings] == [("begins late", 1)]


async def test_an_audit_that_nothing_was_written_to_is_intact(directory: Path) -> None:
    async with running(directory) as audit:
        proof = await audit.verify()
        assert proof.intact
        assert (proof.main.records, proof.main.head) == (0, START)
        assert proof.kms.records == 1
