"""The audit of a kmsd: what a full, a slow or a strange disk does to it, and what kills and restarts do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kmsd.audit import queue as module
from kmsd.audit import writer
from kmsd.audit.chain import parse, verify_files
from kmsd.audit.lock import InUse
from kmsd.audit.trail import Audit
from kmsd.config.settings import Audit as Settings
from kmsd.errors import Conflict, Unavailable
from tests.observe.auditing import calls, directory_with_mode, names, past, problem, running, until, written

TOKEN = "ab" * 32


def take_away(directory: Path) -> None:
    directory.rename(directory.with_name("gone"))


async def test_the_disk_is_told_to_keep_an_admin_action_before_its_answer_leaves(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(directory, kms="all") as audit:
        synced: list[int] = []
        real = os.fsync

        def sync(file: int) -> None:
            real(file)
            synced.append(len(written(directory)))

        monkeypatch.setattr(os, "fsync", sync)
        audit.kms("Decrypt", "OK", seconds=0)
        await until(lambda: len(calls(directory)) == 1)
        audit.event("token up")
        await until(lambda: len(written(directory)) == 1)
        assert synced == [], "calls and events do not wait for the disk"
        assert await audit.admin("RotateKey", "OK", seconds=0)
        assert synced == [2]


async def test_a_disk_that_hangs_holds_up_no_answer_for_long_and_is_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(directory) as audit:
        hangs = threading.Event()
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: (hangs.wait(30), real(file)))
        monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
        monkeypatch.setattr(writer, "_HANGS_AFTER", 0.0)
        assert not await audit.admin("RotateKey", "OK", seconds=0)
        assert "has been hanging" in problem(audit)
        with pytest.raises(Unavailable, match="the disk does not answer"):
            await audit.verify()
        hangs.set()
        await until(lambda: not audit.troubles)
        monkeypatch.undo()
        assert await audit.admin("GenerateKey", "OK", seconds=0)
        assert [record.action for record in written(directory)] == ["RotateKey", "GenerateKey"]


async def test_a_file_that_cannot_be_put_aside_grows_on_and_is_a_problem(directory: Path) -> None:
    async with running(directory, max_bytes=1000) as audit:
        in_the_way = directory / "audit-1.jsonl"
        in_the_way.write_text("something else\n")
        for n in range(20):
            assert await audit.admin(f"action {n}", "OK", seconds=0)
        assert "cannot be put aside" in problem(audit)
        assert "audit-1.jsonl is there already" in problem(audit)
        assert len(written(directory)) == 20
        in_the_way.rename(directory / "elsewhere")
        assert await audit.admin("and on", "OK", seconds=0)
        await until(lambda: not audit.troubles)
        assert (await audit.verify()).problem == ""
        assert "audit-1.jsonl" in names(directory)


async def test_the_chain_goes_on_over_restarts_and_files(directory: Path) -> None:
    for start in range(3):
        async with running(directory, max_bytes=3000, keep=1000, kms="all") as audit:
            for n in range(40):
                audit.kms("Decrypt", "OK", seconds=n, detail=f"{start} {n}")
                if n % 10 == 0:
                    await audit.admin("GetStatus", "OK", seconds=0)
            proof = await audit.verify()
            assert proof.problem == ""
            assert len(proof.kms.files) >= start + 2
    for name, records in (("audit.jsonl", 3 * 4), ("audit-kms.jsonl", 1 + 3 * 40)):
        verdict = verify_files(directory / name)
        assert verdict.problem == ""
        assert verdict.first_seq == 1
        assert verdict.records >= records


async def test_old_files_go_by_plan_and_the_proof_begins_with_the_oldest_kept(directory: Path) -> None:
    async with running(directory, max_bytes=3000, keep=2, kms="all") as audit:
        for _ in range(40):
            audit.kms("Decrypt", "OK", seconds=1)
            await audit.admin("GetStatus", "OK", seconds=0)
        proof = await audit.verify()
        assert proof.problem == ""
        assert proof.main.first_seq > 1
        assert len(names(directory, "audit-[1-9]*.jsonl")) == 2
        (directory / names(directory, "audit-[1-9]*.jsonl")[0]).unlink()
        assert "should come before: cut off" in (await audit.verify()).problem, "kmsd knows what it has not deleted"
        deleted = [record for record in await past(audit, 1000) if record.action == "audit files deleted"]
        assert deleted
        assert "audit.keep" in deleted[-1].detail


async def test_a_second_kmsd_is_refused_and_a_slow_first_one_is_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(directory) as first:
        monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)
        with pytest.raises(InUse, match="another kmsd"):
            await Audit(Settings(), directory).start()
        monkeypatch.undo()
        second = Audit(Settings(), directory)
        starting = asyncio.create_task(second.start())
        await asyncio.sleep(0.05)
        assert await first.admin("last", "OK", seconds=0)
        await first.close()
        await starting
        assert not second.troubles
        assert await second.admin("first", "OK", seconds=0)
        await second.close()
    assert [record.action for record in written(directory)] == ["last", "first"]


def test_after_kills_the_chain_is_intact_and_lacks_nothing_that_was_answered(directory: Path) -> None:
    answered: list[str] = []
    for kill in range(6):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.observe.writing", "steady", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            answered += [process.stdout.readline().strip() for _ in range(5 + 7 * kill)]
            process.send_signal(signal.SIGKILL)
            answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    # As a power cut would leave it, too.
    path = directory / "audit.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq":')
    asyncio.run(_opened_and_closed(directory))
    verdict = verify_files(path)
    assert verdict.problem == ""
    assert verdict.first_seq == 1
    assert verify_files(directory / "audit-kms.jsonl").problem == ""
    actions = {parse(line).action for file in map(Path, verdict.files) for line in file.read_bytes().splitlines()}
    assert len(answered) > 100
    assert set(answered) <= actions
    assert "audit mended" in actions


async def _opened_and_closed(directory: Path) -> None:
    async with running(directory):
        pass


def test_a_full_disk_fails_nothing_and_everything_is_written_when_there_is_room(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.observe.writing", "full", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    message, hint = done.stdout.splitlines()
    assert message == f"the audit {directory}/audit.jsonl cannot be written: File too large"
    assert f"make room in {directory}" in hint
    assert [record.action for record in written(directory)] == [
        "before",
        "fits",
        "token down",
        "does not fit",
        "does not fit either",
        "after",
    ]
    assert verify_files(directory / "audit.jsonl").problem == ""
    assert list(directory.glob("*torn*")) == []


async def test_a_directory_that_others_may_write_to_is_a_problem_until_it_is_mended(directory: Path) -> None:
    directory_with_mode(directory, 0o777)
    async with running(directory) as audit:
        assert f"others may write to the directory {directory}" in problem(audit)
        assert "chmod go-w" in problem(audit)
        assert not await audit.admin("GenerateKey", "OK", seconds=0)
        directory_with_mode(directory, 0o755)
        await until(lambda: not audit.troubles)
        assert [record.action for record in written(directory)] == ["GenerateKey"]


async def test_a_file_that_cannot_be_read_is_told_to_who_asks(directory: Path) -> None:
    async with running(directory, kms="all") as audit:
        await audit.admin("GenerateKey", "OK", seconds=0)
        take_away(directory)
        with pytest.raises(Unavailable, match="cannot be read: No such file"):
            await audit.verify()
        with pytest.raises(Unavailable, match="cannot be read: No such file"):
            await past(audit, 10)


async def test_with_required_an_action_does_not_begin_unrecorded(directory: Path) -> None:
    async with running(directory, required=True) as audit:
        await audit.begin("DestroyKey", key_id_sha256=TOKEN)
        assert [(record.action, record.outcome) for record in written(directory)] == [("DestroyKey", "BEGUN")]
        directory_with_mode(directory, 0o770)
        (directory / "audit.jsonl").unlink()
        with pytest.raises(Unavailable, match=r"DestroyKey is refused: .* others may write to") as raised:
            await audit.begin("DestroyKey")
        assert "audit.required" in raised.value.hint
        directory_with_mode(directory, 0o700)
    async with running(directory) as audit:
        before = len(written(directory))
        await audit.begin("DestroyKey")
        assert len(written(directory)) == before, "without required there is nothing to record before"
    with pytest.raises(Conflict, match="the audit is off"):
        await Audit(Settings(required=True, enabled=False), directory).begin("DestroyKey")
