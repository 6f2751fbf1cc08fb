"""The audit of a kmsd: what is recorded when, what a full or a strange disk does, and that tampering is found."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmsd.audit import queue as module
from kmsd.audit import trail as audit_module
from kmsd.audit import writer
from kmsd.audit.chain import START, Record, make, parse, verify_files
from kmsd.audit.lock import InUse
from kmsd.audit.trail import Audit
from kmsd.config.settings import Audit as Settings
from kmsd.errors import Conflict, Unavailable
from kmsd.observe.pace import BURST, Pace
from tests.observe.chains import chain, lines

TOKEN = "ab" * 32


@asynccontextmanager
async def running(directory: Path, max_bytes: int = 1 << 30, **chosen: Any) -> AsyncIterator[Audit]:
    """max_bytes: smaller than a configuration may have it, so that files get full."""
    audit = Audit(Settings(**chosen).model_copy(update={"max_bytes": max_bytes}), directory)
    await audit.start()
    try:
        yield audit
    finally:
        await audit.close()


def written(directory: Path, name: str = "audit.jsonl") -> list[Record]:
    path = directory / name
    whole, _, _ = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    return [parse(line) for line in whole.splitlines()]


def calls(directory: Path) -> list[Record]:
    """Those of the KMS APIs, without what their chain says of itself."""
    return [record for record in written(directory, "audit-kms.jsonl") if record.action.startswith("Decrypt")]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


def names(directory: Path, pattern: str = "*") -> list[str]:
    return sorted(file.name for file in directory.glob(pattern))


def problem(audit: Audit) -> str:
    return "\n".join(f"{each.message}; {each.hint}" for each in audit.troubles)


def take_away(directory: Path) -> None:
    directory.rename(directory.with_name("gone"))


def directory_with_mode(directory: Path, mode: int) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(mode)


async def past(audit: Audit, count: int) -> list[Record]:
    async with aclosing(audit.watch(count, follow=False)) as batches:
        return [record async for records, _ in batches for record in records]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def test_an_admin_action_is_on_the_disk_when_its_answer_may_leave(directory: Path) -> None:
    async with running(directory) as audit:
        for n in range(5):
            done = await audit.admin(
                f"RotateKey {n}", "OK", seconds=0.25, caller="uid 0", key_id_sha256=TOKEN, detail="to x"
            )
            assert done
            record = written(directory)[-1]
            assert (record.kind, record.action, record.outcome) == ("admin", f"RotateKey {n}", "OK")
            assert (record.caller, record.key_id_sha256, record.detail) == ("uid 0", TOKEN, "to x")
            assert record.latency_ms == 250.0
            assert (await audit.verify()).main.head == record.head


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


async def test_events_come_in_order_before_the_action_that_follows_and_calls_in_a_chain_of_their_own(
    directory: Path,
) -> None:
    async with running(directory, kms="all") as audit:
        audit.event("token up", detail="slot 3")
        audit.kms("Encrypt", "OK", seconds=0.001, key_id_sha256=TOKEN)
        audit.kms("Decrypt", "INTERNAL", seconds=0.002)
        await audit.admin("GenerateKey", "OK", seconds=0.1)
        assert [(record.kind, record.action, record.outcome) for record in written(directory)] == [
            ("event", "token up", "OK"),
            ("admin", "GenerateKey", "OK"),
        ]
    assert [(each.seq, each.kind, each.action, each.outcome) for each in written(directory, "audit-kms.jsonl")] == [
        (1, "kms", "audit begun", "OK"),
        (2, "kms", "Encrypt", "OK"),
        (3, "kms", "Decrypt", "INTERNAL"),
    ]


async def test_calls_alone_are_written_soon_too(directory: Path) -> None:
    async with running(directory, kms="all") as audit:
        audit.kms("Decrypt", "OK", seconds=0.001)
        await until(lambda: len(calls(directory)) == 1)


@pytest.mark.parametrize(
    ("kms", "expected"), [("none", 0), ("sampled", 10 + 5), ("all", 1000 + 5)], ids=["none", "sampled", "all"]
)
async def test_which_calls_are_recorded(directory: Path, kms: str, expected: int) -> None:
    async with running(directory, kms=kms, sample=100) as audit:
        for n in range(1000):
            audit.kms("Decrypt", "OK", seconds=0.001)
            if n % 200 == 0:
                audit.kms("Decrypt", "UNAVAILABLE", seconds=0.001)
    records = calls(directory)
    assert len(records) == expected
    assert sum(record.outcome == "UNAVAILABLE" for record in records) == (5 if expected else 0)


async def test_what_callers_send_stays_within_its_line(directory: Path) -> None:
    evil = '"},\n{"seq":2,"kind":"admin"}\r\u2028\x00\x1b[2J\ud800' + "x" * 100_000
    async with running(directory) as audit:
        await audit.admin(evil, evil, seconds=float("1e300"), caller=evil, key_id_sha256=evil, detail=evil)
        assert (await audit.verify()).main.records == 1
    (record,) = written(directory)
    assert record.caller.startswith('"},\n{"seq":2')
    assert (directory / "audit.jsonl").stat().st_size < 2500


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


async def test_more_than_the_queue_holds_is_lost_counted_and_recorded(directory: Path) -> None:
    audit = Audit(Settings(kms="all"), directory)
    for n in range(module.QUEUE + 25):  # nothing writes yet
        audit.kms("Decrypt", "OK", seconds=n)
    assert problem(audit).startswith("25 audit records were lost")
    await audit.start()
    await until(lambda: len(calls(directory)) == module.QUEUE)
    await audit.admin("GetStatus", "OK", seconds=0)
    audit.kms("Decrypt one more", "OK", seconds=0)
    assert not audit.troubles
    await audit.close()
    lost, after = written(directory, "audit-kms.jsonl")[-2:]
    assert (lost.kind, lost.action, lost.outcome) == ("kms", "audit records lost", "DATA_LOSS")
    assert lost.detail.startswith("25 records")
    assert after.action == "Decrypt one more"
    assert [record.action for record in written(directory)] == ["GetStatus"], "nothing else is lost"


async def test_a_loss_is_recorded_even_when_nothing_comes_after(directory: Path) -> None:
    audit = Audit(Settings(kms="all"), directory)
    for _ in range(module.QUEUE + 3):
        audit.kms("Decrypt", "OK", seconds=0)
    await audit.start()
    await audit.close()
    assert written(directory, "audit-kms.jsonl")[-1].detail.startswith("3 records")


async def test_failing_calls_push_no_admin_action_out_of_what_is_kept(directory: Path) -> None:
    async with running(directory, max_bytes=3000, keep=1) as audit:
        assert await audit.admin("DestroyKey", "OK", seconds=0, detail="the one to remember")
        for n in range(5000):
            audit.kms("Decrypt", "INVALID_ARGUMENT", seconds=0, detail=f"{n}")
            if n % 100 == 0:
                await asyncio.sleep(0.001)
        proof = await audit.verify()
        assert proof.problem == ""
        assert proof.kms.first_seq > 4000
        assert proof.kms.head.seq > 5000
        assert (proof.main.first_seq, proof.main.records) == (1, 1)
        assert "the one to remember" in [record.detail for record in await past(audit, 10_000)]
    assert len(names(directory, "audit-kms-*.jsonl")) == 1


async def test_of_many_events_alike_the_first_are_recorded_and_the_rest_as_a_number(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "_WITHHELD_SECONDS", 0.1)
    async with running(directory) as audit:
        for n in range(10_000):
            audit.event("token down", outcome="UNAVAILABLE", detail=f"{n}")
            if n == 5000:
                await asyncio.sleep(0.3)
        audit.event("token up")
        await audit.admin("GenerateKey", "OK", seconds=0)
        records = written(directory)
        assert [record.detail for record in records[:BURST]] == [f"{n}" for n in range(BURST)]
        assert [record.action for record in records[BURST:]] == ["token down", "token up", "GenerateKey"]
        counted = records[BURST]
        assert (counted.kind, counted.outcome) == ("event", "UNAVAILABLE")
        assert counted.detail == f"{5001 - BURST} more that were not recorded one by one, the last: 5000"
    last = written(directory)[-1]
    assert last.detail == "4999 more that were not recorded one by one, the last: 9999"


def test_the_pace_gives_one_more_a_minute() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert sum(pace.admits("a") for _ in range(1000)) == BURST
    assert pace.admits("b")
    now = 59.0
    assert not pace.admits("a")
    now = 61.0
    assert [pace.admits("a"), pace.admits("a")] == [True, False]
    now = 1e9
    assert sum(pace.admits("a") for _ in range(1000)) == BURST


async def test_a_chain_of_both_as_it_was_written_before_goes_on_and_stays_whole(directory: Path) -> None:
    old = chain(9)
    directory_with_mode(directory, 0o700)
    (directory / "audit.jsonl").write_bytes(b"".join(lines(old)))
    assert {record.kind for record in old} == {"admin", "kms", "event"}
    async with running(directory, kms="all") as audit:
        audit.kms("Decrypt", "OK", seconds=0)
        await audit.admin("GenerateKey", "OK", seconds=0)
        proof = await audit.verify()
        assert proof.problem == ""
        assert (proof.main.first_seq, proof.main.records) == (1, 10)
        assert proof.kms.first_seq == 1
        assert {record.line for record in old} < {record.line for record in await past(audit, 1000)}


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


async def test_when_it_is_off_the_last_records_can_be_watched_and_nothing_is_written(directory: Path) -> None:
    async with running(directory, enabled=False, kms="all") as audit:
        assert await audit.admin("GetStatus", "OK", seconds=0)
        for n in range(module.KEPT + 5):
            audit.kms("Decrypt", "OK", seconds=n)
        records = await past(audit, 5000)
        assert [record.seq for record in records] == [1, *range(6, module.KEPT + 6)], "calls push out calls"
        assert (await past(audit, 1))[0].seq == module.KEPT + 5
        assert not audit.troubles
        with pytest.raises(Conflict, match="it is off"):
            await audit.verify()
    assert names(directory.parent) == []


async def test_watching_begins_with_the_past_and_leaves_nothing_out(directory: Path) -> None:
    """Of both chains, by their times."""
    async with running(directory, kms="all", max_bytes=20_000, keep=100) as audit:
        for n in range(600):
            audit.kms("Decrypt", "OK", seconds=n)
            if n % 20 == 0:
                await audit.admin("GetStatus", "OK", seconds=0)
    async with running(directory, kms="all", max_bytes=20_000, keep=100) as audit:
        assert await past(audit, 0) == []
        everything = await past(audit, 10**9)
        proof = await audit.verify()
        for kms, verdict in ((True, proof.kms), (False, proof.main)):
            assert whole(everything, kms=kms) == (1, verdict.head.seq)
        assert len(await past(audit, 50)) == 50
        seen: list[Record] = []

        async def watch() -> None:
            async with aclosing(audit.watch(100, follow=True)) as batches:
                async for records, dropped in batches:
                    assert dropped == 0
                    seen.extend(records)

        watching = asyncio.create_task(watch())
        for n in range(300):
            audit.kms("Encrypt", "OK", seconds=n)
            await asyncio.sleep(0.001)
            if n % 20 == 0:
                await audit.admin("GetStatus", "OK", seconds=0)
        audit.kms("last call", "OK", seconds=0)
        await audit.admin("last action", "OK", seconds=0)
        await until(lambda: {"last call", "last action"} <= {record.action for record in seen})
        assert len(seen) >= 400
        proof = await audit.verify()
        assert whole(seen, kms=True)[1] == proof.kms.head.seq
        assert whole(seen, kms=False)[1] == proof.main.head.seq
    await asyncio.wait_for(watching, 10)  # closing the audit ends it


def whole(records: list[Record], *, kms: bool) -> tuple[int, int]:
    """The first and the last seq of those of one chain, of which none lacks and none is there twice."""
    found = [record.seq for record in records if (record.kind == "kms") is kms]
    assert found == list(range(found[0], found[-1] + 1))
    return found[0], found[-1]


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
    (command,) = re.findall(r"```sh\n(.*)\n```", text)
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


async def test_closing_twice_and_using_it_after_harms_nothing(directory: Path) -> None:
    async with running(directory) as audit:
        audit.event("token up")
        await audit.close()
        audit.event("token down")
        assert not await audit.admin("GetStatus", "OK", seconds=0)
    assert [record.action for record in written(directory)] == ["token up"]
