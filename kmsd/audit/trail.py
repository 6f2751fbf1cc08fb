"""The audit as the rest of kmsd sees it: what was done, by whom, with which key, and how it ended.

There are two chains in two files: one for admin actions and events, one for the calls of the KMS APIs. So whoever may
only call the KMS APIs can push nothing but calls out of what is kept. Of events, which somebody may be able to cause at
will, only so many of a kind are recorded one by one.

Admin actions are on the disk before their answer leaves. Nothing here fails a call because of the disk: what is wrong
is in `troubles`. No plaintext, ciphertext, PIN or key ever comes here.

All of it belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from heapq import merge
from pathlib import Path
from typing import Final, NamedTuple

from kmsd.audit.chain import ChainVerdict, Entry, Head, Kind, Record, Source, matching, tail, verify
from kmsd.audit.file import BREATH, DISTURBED, PUT_ASIDE, AuditFile
from kmsd.audit.queue import KEPT, Chain
from kmsd.audit.tampering import WORDS, Tampering
from kmsd.audit.writer import LOST, Sight, WriteFailure
from kmsd.config.settings import Audit as AuditSettings
from kmsd.errors import Conflict, Unavailable
from kmsd.observe import logs
from kmsd.observe.feed import Feed
from kmsd.observe.pace import Pace
from kmsd.observe.wanted import EVERYTHING, Wanted

log = logs.get_logger("kmsd.audit")

FILE: Final = "audit.jsonl"
MAX_BACKLOG: Final = 10_000
_CLOSE_SECONDS: Final = 5.0
_PAGE: Final = 250
_WITHHELD_SECONDS: Final = 60.0
"""Seconds after which events that were not recorded one by one are recorded as a number."""


class _Told(NamedTuple):
    """A record on its way to those who watch. chain: its place in `Audit._chains`."""

    chain: int
    record: Record


class ChainView(NamedTuple):
    """A chain at one moment. records: the number of the last one. lost: since kmsd started. waiting: for the disk. ok:
    whether it can be written; None for one that is not to be."""

    records: int
    lost: int
    waiting: int
    ok: bool | None


class Proof(NamedTuple):
    """The proofs of both chains. main: of the chain of admin actions and events. kms: of that of the calls of the KMS
    APIs."""

    main: ChainVerdict
    kms: ChainVerdict

    @property
    def intact(self) -> bool:
        return self.main.intact and self.kms.intact

    @property
    def problem(self) -> str:
        """The first problem of either chain; empty if both are intact."""
        return "; ".join(filter(None, (self.main.problem, self.kms.problem)))


class Audit:
    """The audit that all of kmsd writes to.

    settings: the section [audit]. state_dir: where the files lie unless the settings name one. now: Unix seconds.

    tampering: what other programs were seen to do to it. An action "AcknowledgeAudit" that is recorded puts it away.
    """

    def __init__(self, settings: AuditSettings, state_dir: Path, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._feed: Feed[_Told] = Feed(KEPT)
        self.tampering = Tampering()
        self._pace = Pace()
        self._withheld: dict[str, tuple[int, Entry]] = {}
        self._until_sample = 1
        path = settings.file or state_dir / FILE
        calls = path.with_name(f"{path.stem}-kms{path.suffix}")
        self._main = Chain(self._file(path, WORDS), self._told_main, self._recalled, now, kind="event")
        self._calls = Chain(
            self._file(calls, ()),
            self._told_calls,
            lambda records: None,
            now,
            kind="kms",
            begun=f"calls of the KMS APIs; admin actions and events are in {path.name}",
        )
        self._chains = (self._main, self._calls)

    def _file(self, path: Path, recall: Collection[bytes]) -> AuditFile | None:
        settings = self._settings
        return AuditFile(path, settings.max_bytes, settings.keep, tuple(recall)) if settings.enabled else None

    async def start(self) -> None:
        """Open the files, and begin to write. Raises InUse if another kmsd has one; any other trouble is in
        `troubles`."""
        for chain in self._chains:
            await chain.start()

    async def close(self) -> None:
        """Write what is left; whoever watches comes to an end. Takes 5 s at the longest."""
        for action in tuple(self._withheld):
            self._tell_withheld(action)
        if not all(await asyncio.gather(*(chain.close(_CLOSE_SECONDS) for chain in self._chains))):
            log.error("the audit could not be closed in time", hint="its last records may be missing")
        self._feed.close()

    def views(self) -> tuple[ChainView, ChainView]:
        """Return how the chain of admin actions and events is, and that of the calls of the KMS APIs."""
        main, calls = (
            ChainView(
                chain.head.seq, chain.lost, chain.waiting, chain.trouble is None if self._settings.enabled else None
            )
            for chain in self._chains
        )
        return main, calls

    @property
    def troubles(self) -> list[WriteFailure]:
        """The reasons why records are missing or may come to be missing, and what others have done to them; each
        once."""
        found = [*(chain.trouble for chain in self._chains), self.tampering.trouble]
        return list({each.message: each for each in found if each is not None}.values())

    def kms(
        self,
        action: str,
        outcome: str,
        *,
        seconds: float,
        caller: str = "",
        key_id_sha256: str = "",
        detail: str = "",
        reason: str = "",
        tenant: str = "",
    ) -> None:
        """Record that a call of a KMS API has ended, if the settings say so: one of `sample`, or all; failed ones
        always, unless none are. outcome: canonical status name. reason: why it failed. Costs well under a microsecond
        if it is not recorded."""
        if self._passed_over(outcome):
            return
        self._calls.put(
            self._entry(
                "kms",
                action,
                outcome,
                seconds,
                caller=caller,
                key_id_sha256=key_id_sha256,
                detail=detail,
                reason=reason,
                tenant=tenant,
            )
        )

    def event(
        self, action: str, *, outcome: str = "OK", key_id_sha256: str = "", detail: str = "", tenant: str = ""
    ) -> None:
        """Record something that has happened to kmsd or its token, as "token up". Of many alike within a short time the
        first are recorded, and of the others how many there were."""
        entry = self._entry("event", action, outcome, key_id_sha256=key_id_sha256, detail=detail, tenant=tenant)
        if self._pace.admits(action):
            self._main.put(entry)
            return
        count, _ = self._withheld.get(action, (0, entry))
        self._withheld[action] = count + 1, entry
        if not count:
            asyncio.get_running_loop().call_later(_WITHHELD_SECONDS, self._tell_withheld, action)

    async def admin(
        self,
        action: str,
        outcome: str,
        *,
        seconds: float,
        caller: str = "",
        key_id_sha256: str = "",
        detail: str = "",
        reason: str = "",
        tenant: str = "",
    ) -> bool:
        """Record that an action of the admin API has ended. Return when it is on the disk; False if it could not be
        written: `troubles` tells why, and it will be written as soon as that is mended."""
        return await self._main.surely(
            self._entry(
                "admin",
                action,
                outcome,
                seconds,
                caller=caller,
                key_id_sha256=key_id_sha256,
                detail=detail,
                reason=reason,
                tenant=tenant,
            )
        )

    async def begin(self, action: str, *, caller: str = "", key_id_sha256: str = "", detail: str = "") -> None:
        """Record, with audit.required, that an admin action begins that changes something (outcome "BEGUN"). Raises
        Unavailable if that cannot be written. Does nothing without audit.required."""
        if not self._settings.required:
            return
        if not self._settings.enabled:
            raise Conflict("audit.required is set, but the audit is off", "set audit.enabled, or unset audit.required")
        entry = self._entry("admin", action, "BEGUN", caller=caller, key_id_sha256=key_id_sha256, detail=detail)
        if not await self._main.surely(entry):
            trouble = self._main.trouble
            raise Unavailable(
                f"{action} is refused: {trouble.message if trouble else 'the audit is not written in time'}",
                (trouble.hint if trouble else "check the disk") + "; audit.required makes this a condition",
            )

    async def watch(
        self, backlog: int, follow: bool, wanted: Wanted = EVERYTHING
    ) -> AsyncGenerator[tuple[list[Record], int], None]:
        """Yield the last `backlog` wanted records of both chains by their times (at most MAX_BACKLOG), and with
        `follow` all wanted ones that come, none twice and none left out: (records, how many were lost before them
        because they were fetched too slowly).

        The records are read from the files if there are any, so also those from before a restart. Raises Unavailable.
        The caller has to close it (`contextlib.aclosing`).
        """
        last = [0 for _ in self._chains]
        fresh_wanted = (lambda told: _wants(wanted, told.record)) if wanted else None
        async with self._feed.subscribe(wanted=fresh_wanted) as live:
            async with aclosing(self._past(min(backlog, MAX_BACKLOG), last, wanted)) as pages:
                async for page in pages:
                    yield page, 0
            if not follow:
                return
            async for items, dropped in live:
                fresh = [record for chain, record in items if record.seq > last[chain]]
                if fresh or dropped:
                    yield fresh, dropped

    async def verify(self, known: Collection[Head] = ()) -> Proof:
        """Check every file that is kept, up to what has been recorded by now, while kmsd goes on recording. known:
        heads of the first chain noted before. Raises Unavailable, and Conflict if nothing is written."""
        if not all(chain.writes for chain in self._chains):
            raise Conflict("there is no audit to verify: it is off", "set audit.enabled")

        async def prove(chain: Chain, known: Collection[Head]) -> ChainVerdict:
            sight = await chain.sight()
            try:
                return await asyncio.to_thread(_prove, sight, known)
            except OSError as error:
                raise _unreadable(error) from error
            finally:
                sight.stack.close()

        return Proof(await prove(self._main, known), await prove(self._calls, ()))

    def _told_main(self, record: Record) -> None:
        self._feed.publish(_Told(0, record))
        self.tampering.saw(record)
        if record.action == PUT_ASIDE and (again := self.tampering.again()):
            self._main.put(self._entry("event", DISTURBED, LOST, detail=again))

    def _told_calls(self, record: Record) -> None:
        self._feed.publish(_Told(1, record))
        if record.action == DISTURBED:
            # In the chain of the calls this record could be pushed out by calls.
            self.event(DISTURBED, outcome=LOST, detail=record.detail)

    def _recalled(self, records: list[Record]) -> None:
        for record in records:
            self.tampering.saw(record)

    def _tell_withheld(self, action: str) -> None:
        count, entry = self._withheld.pop(action, (0, None))
        if entry is not None:
            detail = f"{count} more that were not recorded one by one, the last: {entry.detail}"
            self._main.put(self._entry("event", action, entry.outcome, detail=detail))

    def _entry(
        self,
        kind: Kind,
        action: str,
        outcome: str,
        seconds: float = 0.0,
        *,
        caller: str = "",
        key_id_sha256: str = "",
        detail: str = "",
        reason: str = "",
        tenant: str = "",
    ) -> Entry:
        return Entry(
            unix_ms=int(self._now() * 1000),
            kind=kind,
            action=action,
            caller=caller,
            key_id_sha256=key_id_sha256,
            outcome=outcome,
            latency_ms=seconds * 1000,
            detail=detail,
            reason=reason,
            tenant=tenant,
        )

    def _passed_over(self, outcome: str) -> bool:
        match self._settings.kms:
            case "all":
                return False
            case "none":
                return True
        if outcome != "OK":
            return False
        self._until_sample -= 1
        if self._until_sample > 0:
            return True
        self._until_sample = self._settings.sample
        return False

    async def _past(self, count: int, last: list[int], wanted: Wanted) -> AsyncGenerator[list[Record], None]:
        """Yield the last `count` wanted records. last: is given the seq up to which each chain has been read."""
        if not self._settings.enabled:
            kept = merge(*(chain.recent for chain in self._chains), key=lambda record: record.unix_ms)
            found = [record for record in kept if _wants(wanted, record)]
            if records := found[max(0, len(found) - count) :]:
                yield records
        if count <= 0 or not all(chain.writes for chain in self._chains):
            return
        sights: list[Sight] = []
        try:
            for place, chain in enumerate(self._chains):
                sights.append(await chain.sight())
                last[place] = sights[place].head.seq
            sources = [sight.sources for sight in sights]
            if wanted:
                found = await asyncio.to_thread(_matching, sources, count, wanted)
                for begin in range(0, len(found), _PAGE):
                    yield found[begin : begin + _PAGE]
                return
            pages = tail(sources, count, _PAGE)
            while page := await asyncio.to_thread(next, pages, None):
                yield [record for _, record in page]
        except OSError as error:
            raise _unreadable(error) from error
        finally:
            for sight in sights:
                sight.stack.close()


def _prove(sight: Sight, known: Collection[Head]) -> ChainVerdict:
    # Let go of the interpreter lock between some lines: the event loop waits for it.
    return verify(sight.sources, [sight.head, *known], sight.oldest, pause=lambda: time.sleep(BREATH))


def _matching(sources: Sequence[Sequence[Source]], count: int, wanted: Wanted) -> list[Record]:
    return matching(
        sources, count, wanted.of_line(), lambda record: _wants(wanted, record), pause=lambda: time.sleep(BREATH)
    )


def _wants(wanted: Wanted, record: Record) -> bool:
    # A call of a KMS API is recorded as "v2 Decrypt".
    method = "" if record.kind == "event" else record.action.rpartition(" ")[2]
    return wanted.wants(method, record.outcome, record.key_id_sha256, record.unix_ms, record.tenant)


def _unreadable(error: OSError) -> Unavailable:
    return Unavailable(f"the audit cannot be read: {error.strerror or error}", "check the disk")
