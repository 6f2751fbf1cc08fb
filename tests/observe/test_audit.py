"""The audit of a kmsd: what is recorded when, what is lost and told, and what is shown to who watches."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from kmsd.audit import queue as module
from kmsd.audit import trail as audit_module
from kmsd.audit.chain import Record
from kmsd.audit.trail import Audit
from kmsd.config.settings import Audit as Settings
from kmsd.errors import Conflict
from kmsd.observe.pace import BURST, Pace
from tests.observe.auditing import calls, directory_with_mode, names, past, problem, running, until, written
from tests.observe.chains import chain, lines

TOKEN = "ab" * 32


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


async def test_closing_twice_and_using_it_after_harms_nothing(directory: Path) -> None:
    async with running(directory) as audit:
        audit.event("token up")
        await audit.close()
        audit.event("token down")
        assert not await audit.admin("GetStatus", "OK", seconds=0)
    assert [record.action for record in written(directory)] == ["token up"]
