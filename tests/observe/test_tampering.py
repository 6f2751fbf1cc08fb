"""What other programs do to the audit of a running kmsd: seen, a problem until it is acknowledged, over restarts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.audit import file as audit_file
from kmsd.audit import writer
from kmsd.audit.chain import START, Entry, Record, make, parse
from kmsd.audit.file import AuditFile
from kmsd.audit.tampering import Tampering, acknowledgement
from kmsd.audit.trail import Audit
from tests.observe.auditing import problem, running, until, written
from tests.observe.chains import entry


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that nothing is written to is looked at every few milliseconds."""
    monkeypatch.setattr(writer, "_LOOK_SECONDS", 0.02)


def deletes(path: Path) -> None:
    path.unlink()


def cuts(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 30)


def empties(path: Path) -> None:
    os.truncate(path, 0)


def appends(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"hello\n")


def edits(path: Path) -> None:
    """In place, and as long as before."""
    text = path.read_bytes()
    with path.open("r+b") as file:
        file.write(text.replace(b"action 2", b"action 9"))


def tampered(audit: Audit) -> bool:
    return "the audit was tampered with" in problem(audit)


async def acknowledge(audit: Audit) -> None:
    """As the admin API does."""
    seen = audit.tampering.up_to(0)
    assert await audit.admin("AcknowledgeAudit", "OK", seconds=0, caller="me", detail=acknowledgement(seen))


@pytest.mark.parametrize("tamper", [deletes, cuts, empties, appends, edits])
@pytest.mark.parametrize("name", ["audit.jsonl", "audit-kms.jsonl"])
async def test_it_is_a_problem_until_it_is_acknowledged_and_a_restart_is_no_acknowledgement(
    directory: Path, tamper: Callable[[Path], None], name: str
) -> None:
    async with running(directory, kms="all") as audit:
        for n in range(4):
            await audit.admin(f"action {n}", "OK", seconds=0)
            audit.kms(f"action {n}", "OK", seconds=0)
        await until(lambda: len(written(directory, "audit-kms.jsonl")) == 5)
        tamper(directory / name)
        # Nobody does anything, and it is noticed.
        await until(lambda: tampered(audit))
        assert name in problem(audit)
        assert "by another program" in problem(audit)
        assert "times since" not in problem(audit)
        assert "kmsctl audit acknowledge" in problem(audit)
        told = [record for record in _intact(directory, "audit.jsonl") if record.action == "audit disturbed"]
        assert {record.outcome for record in told} == {"DATA_LOSS"}
        before = problem(audit)
    for _ in range(2):
        async with running(directory) as audit:
            await until(lambda: tampered(audit))
            assert problem(audit) == before
    async with running(directory) as audit:
        await until(lambda: tampered(audit))
        await acknowledge(audit)
        assert not audit.troubles
    async with running(directory) as audit:
        assert await audit.admin("one more", "OK", seconds=0)
        assert not audit.troubles
        tamper(directory / name)
        if tamper is not edits or name == "audit.jsonl":
            await until(lambda: tampered(audit))


def _intact(directory: Path, name: str) -> list[Record]:
    lines = (directory / name).read_bytes().splitlines()
    return [parse(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]


async def test_it_is_not_forgotten_when_the_file_that_tells_it_is_deleted_by_plan(directory: Path) -> None:
    async with running(directory, max_bytes=3000, keep=1) as audit:
        await audit.admin("first", "OK", seconds=0)
        appends(directory / "audit.jsonl")
        await until(lambda: tampered(audit))
        before = problem(audit)
        for n in range(100):
            await audit.admin(f"action {n}", "OK", seconds=0)
        assert problem(audit) == before
        assert (await audit.verify()).main.first_seq > 50
    async with running(directory, max_bytes=3000, keep=1) as audit:
        await until(lambda: tampered(audit))
        assert problem(audit) == before
        await acknowledge(audit)
        assert not audit.troubles
        for n in range(30):
            await audit.admin(f"action {n}", "OK", seconds=0)
        assert not audit.troubles


async def test_what_comes_after_what_is_acknowledged_stays_a_problem(directory: Path) -> None:
    async with running(directory) as audit:
        await audit.admin("first", "OK", seconds=0)
        appends(directory / "audit.jsonl")
        await until(lambda: tampered(audit))
        seen = audit.tampering.up_to(0)
        deletes(directory / "audit.jsonl")
        await until(lambda: audit.tampering.times == 2)
        assert "2 times since " in problem(audit)
        assert audit.tampering.up_to(seen[0].seq) == seen
        assert await audit.admin("AcknowledgeAudit", "OK", seconds=0, detail=acknowledgement(seen))
        assert "deleted or moved away" in problem(audit)
        assert "times since" not in problem(audit)


async def test_a_file_that_was_only_touched_is_no_problem(directory: Path) -> None:
    async with running(directory) as audit:
        await audit.admin("first", "OK", seconds=0)
        os.utime(directory / "audit.jsonl")
        assert await audit.admin("second", "OK", seconds=0)
        assert not audit.troubles


def test_a_change_in_place_is_found_though_kmsd_writes_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose time was changed is read once a minute at the most."""
    file = AuditFile(tmp_path / "d" / "audit.jsonl", 1 << 30, 1)
    file.open()
    file.append([entry(n) for n in range(4)])
    os.utime(file.path)
    assert file.disturbed() == "", "it was read, and is what it was"
    text = file.path.read_bytes()
    with file.path.open("r+b") as other:
        other.write(text.replace(b"RotateKey", b"NotateKey"))
    assert file.disturbed() == "", "not again so soon"
    file.append([entry(5)])
    monkeypatch.setattr(audit_file, "_EXAMINE_SECONDS", 0)
    assert "line 2 (seq 2)" in file.disturbed()
    assert file.disturbed() == ""
    file.close()


def test_the_end_of_a_long_file_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_file, "_EXAMINED", 5000)
    monkeypatch.setattr(audit_file, "_EXAMINE_SECONDS", 0)
    file = AuditFile(tmp_path / "d" / "audit.jsonl", 1 << 30, 1)
    file.open()
    for n in range(100):
        file.append([entry(n)])
    os.utime(file.path)
    assert file.disturbed() == ""
    text = bytearray(file.path.read_bytes())
    text[-1000] ^= 1
    with file.path.open("r+b") as other:
        other.write(text)
    assert "was changed by another program" in file.disturbed()
    file.close()


def record(seq: int, action: str, detail: str, *, kind: str = "event", outcome: str = "DATA_LOSS") -> Record:
    made: Record = make(
        Entry(unix_ms=1_800_000_000_000, kind=kind, action=action, outcome=outcome, detail=detail),  # type: ignore[arg-type]
        START,
    )
    object.__setattr__(made, "seq", seq)
    return made


@pytest.mark.parametrize(
    "forged",
    [
        record(9, "AcknowledgeAudit", "up to record 8", kind="event", outcome="OK"),
        record(9, "AcknowledgeAudit", "up to record 8", kind="admin", outcome="BEGUN"),
        record(9, "AcknowledgeAudit", "up to record 8; and more", kind="admin", outcome="OK"),
        record(9, "AcknowledgeAudit", "dry run", kind="admin", outcome="OK"),
    ],
)
def test_only_an_acknowledgement_acknowledges(forged: Record) -> None:
    tampering = Tampering()
    tampering.saw(record(8, "audit disturbed", "it was cut"))
    tampering.saw(forged)
    assert tampering.trouble is not None
    tampering.saw(record(10, "AcknowledgeAudit", "up to record 8", kind="admin", outcome="OK"))
    assert tampering.trouble is None


def test_many_are_counted_and_the_last_are_kept() -> None:
    tampering = Tampering()
    for seq in range(1, 1001):
        tampering.saw(record(seq, "audit disturbed", f"number {seq}"))
    assert tampering.trouble is not None
    assert tampering.trouble.message.startswith("the audit was tampered with: 1000 times since 2027-01-15T08:00:00Z")
    assert "number 1000, seen" in tampering.trouble.message
    assert [each.seq for each in tampering.up_to(0)] == list(range(981, 1001))
    tampering.saw(record(1001, "AcknowledgeAudit", acknowledgement(tampering.up_to(0)), kind="admin", outcome="OK"))
    assert tampering.trouble is None
