"""The audit as the rest of kmsd sees it: what was done, by whom, with which key, and how it ended.

Admin actions are on the disk before their answer leaves; calls of the KMS APIs and events are written in batches by a
thread, and lost when kmsd is killed within a tenth of a second. Nothing here fails a call because of the disk: what is
wrong is in `problem`. No plaintext, ciphertext, PIN or key ever comes here.

All of it belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from kmsd.auditchain import START, Entry, Head, Kind, Record, Verdict, make, tail, verify
from kmsd.errors import Conflict, KmsdError, Unavailable
from kmsd.observe import logs
from kmsd.observe.auditfile import AuditFile, InUse, Note
from kmsd.observe.auditwriter import Sight, Trouble, Writer, explain
from kmsd.observe.feed import Feed
from kmsd.settings import Audit as AuditSettings

log = logs.get_logger("kmsd.audit")

FILE: Final = "audit.jsonl"
KEPT: Final = 1000
"""Records that WatchAudit can begin with when none are written."""
MAX_BACKLOG: Final = 10_000
QUEUE: Final = 10_000
"""Records that may wait for the disk; more are lost, and counted. Admin actions are never turned away."""
_FLUSH_SECONDS: Final = 0.1
_ADMIN_SECONDS: Final = 5.0
"""The longest that an admin action waits for the disk."""
_LOCK_SECONDS: Final = 3.0
"""How long a kmsd that is ending may still hold the lock."""
_CLOSE_SECONDS: Final = 5.0
_PAGE: Final = 250
_BREATH: Final = 0.0005


class Audit:
    """settings: the section [audit]. state_dir: where the file lies unless the settings name one. now: Unix seconds."""

    def __init__(self, settings: AuditSettings, state_dir: Path, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._file = AuditFile(settings.file or state_dir / FILE, settings.max_bytes, settings.keep)
        self._writer: Writer | None = None
        self._feed: Feed[Record] = Feed(KEPT)
        self._unwritten_head = START
        self._gathered: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._lost = 0
        self._until_sample = 1
        self._closed = False
        self._in_use: Trouble | None = None

    async def start(self) -> None:
        """Open the file, and begin to write. Raises InUse if another kmsd has it; any other trouble is in `problem`."""
        if not self._settings.enabled:
            return
        writer = Writer(self._file, asyncio.get_running_loop(), self._written, self._now)
        try:
            writer.opened(await self._open())
        except InUse as error:
            self._in_use = explain(error, self._file)
            raise
        except (OSError, KmsdError) as error:
            writer.failed(error)
        writer.start()
        self._writer = writer
        self._flush()

    async def close(self) -> None:
        """Write what is left; whoever watches comes to an end. Takes 5 s at the longest."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._lost:
            self._tell_loss()
        self._flush()
        if self._writer is not None and not await self._writer.close(_CLOSE_SECONDS):
            log.error("the audit could not be closed in time", hint="its last records may be missing")
        self._feed.close()

    @property
    def head(self) -> Head:
        """Seq and hash of the last record."""
        return self._writer.head if self._writer is not None else self._unwritten_head

    @property
    def problem(self) -> Trouble | None:
        """Why records are missing or may come to be missing."""
        trouble = self._writer.trouble if self._writer is not None else self._in_use
        if trouble is None and self._lost:
            return Trouble(
                f"{self._lost} audit records were lost: there were more than could be written",
                'record fewer calls (audit.kms = "sampled"), or use a faster disk',
            )
        return trouble

    def kms(
        self,
        action: str,
        outcome: str,
        *,
        seconds: float,
        caller: str = "",
        key_id_sha256: str = "",
        detail: str = "",
    ) -> None:
        """A call of a KMS API has ended. Recorded if the settings say so: one of `sample`, or all; failed ones always,
        unless none are. outcome: canonical status name. Costs well under a microsecond if it is not recorded."""
        if self._passed_over(outcome):
            return
        self._put(
            self._entry("kms", action, outcome, seconds, caller=caller, key_id_sha256=key_id_sha256, detail=detail)
        )

    def event(self, action: str, *, outcome: str = "OK", key_id_sha256: str = "", detail: str = "") -> None:
        """Something has happened to kmsd or its token, as "token up"."""
        self._put(self._entry("event", action, outcome, key_id_sha256=key_id_sha256, detail=detail))

    async def admin(
        self,
        action: str,
        outcome: str,
        *,
        seconds: float,
        caller: str = "",
        key_id_sha256: str = "",
        detail: str = "",
    ) -> bool:
        """An action of the admin API has ended. Returns when it is recorded on the disk; False if it could not be:
        `problem` says why, and it will be written as soon as that is mended."""
        return await self._surely(
            self._entry("admin", action, outcome, seconds, caller=caller, key_id_sha256=key_id_sha256, detail=detail)
        )

    async def begin(self, action: str, *, caller: str = "", key_id_sha256: str = "", detail: str = "") -> None:
        """To be called before an admin action that changes something. With audit.required, records that it begins
        (outcome "BEGUN"), and raises Unavailable if that cannot be written; else does nothing."""
        if not self._settings.required:
            return
        if not self._settings.enabled:
            raise Conflict("audit.required is set, but the audit is off", "set audit.enabled, or unset audit.required")
        entry = self._entry("admin", action, "BEGUN", caller=caller, key_id_sha256=key_id_sha256, detail=detail)
        if not await self._surely(entry):
            problem = self.problem
            raise Unavailable(
                f"{action} is refused: {problem.message if problem else 'the audit is not written in time'}",
                (problem.hint if problem else "check the disk") + "; audit.required makes this a condition",
            )

    async def watch(self, backlog: int, follow: bool) -> AsyncGenerator[tuple[list[Record], int], None]:
        """The last `backlog` records (at most MAX_BACKLOG), and with `follow` all that come, none twice and none left
        out: (records, how many were lost before them because they were fetched too slowly).

        From the files if there are any, so over restarts. Raises Unavailable. To be closed (`contextlib.aclosing`).
        """
        async with self._feed.subscribe() as live:
            last = 0
            async with aclosing(self._past(min(backlog, MAX_BACKLOG))) as pages:
                async for page in pages:
                    last = page[-1].seq
                    yield page, 0
            if not follow:
                return
            async for items, dropped in live:
                fresh = [record for record in items if record.seq > last]
                if fresh or dropped:
                    yield fresh, dropped

    async def verify(self, known: Collection[Head] = ()) -> Verdict:
        """Check every file that is kept, up to what has been recorded by now, while kmsd goes on recording. known:
        heads noted before. Raises Unavailable, and Conflict if nothing is written."""
        if self._writer is None:
            raise Conflict("there is no audit to verify: it is off", "set audit.enabled")
        sight = await self._sight(self._writer)
        try:
            return await asyncio.to_thread(
                # Between some lines it lets go of the interpreter, for which the event loop waits.
                lambda: verify(sight.sources, [sight.head, *known], pause=lambda: time.sleep(_BREATH))
            )
        except OSError as error:
            raise Unavailable(f"the audit cannot be read: {error.strerror or error}", "check the disk") from error
        finally:
            sight.stack.close()

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

    def _put(self, entry: Entry) -> None:
        if self._closed:
            return
        if self._waiting >= QUEUE:
            self._lost += 1
            return
        if self._lost:
            self._tell_loss()
        self._gather(entry)
        if self._timer is None and self._writer is not None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    def _tell_loss(self) -> None:
        lost, self._lost = self._lost, 0
        detail = f"{lost} records before this one: there were more than could be written"
        self._gather(self._entry("event", "audit records lost", "OK", detail=detail))

    def _gather(self, entry: Entry) -> None:
        if not self._settings.enabled:
            record = make(entry, self._unwritten_head)
            self._unwritten_head = record.head
            self._feed.publish(record)
            return
        self._waiting += 1
        self._gathered.append(entry)

    def _flush(self, waiter: asyncio.Future[bool] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is not None and (self._gathered or waiter is not None):
            gathered, self._gathered = self._gathered, []
            self._writer.write(gathered, waiter)

    def _written(self, records: list[Record], count: int) -> None:
        self._waiting -= count
        for record in records:
            self._feed.publish(record)

    async def _surely(self, entry: Entry) -> bool:
        self._gather(entry)
        if not self._settings.enabled:
            return True
        if self._writer is None or self._closed:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._flush(waiter)
        try:
            async with asyncio.timeout(_ADMIN_SECONDS):
                return await waiter
        except TimeoutError:
            return False

    async def _open(self) -> list[Note]:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return await asyncio.to_thread(self._file.open)
            except InUse:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(0.1)

    async def _sight(self, writer: Writer) -> Sight:
        self._flush()
        try:
            async with asyncio.timeout(_ADMIN_SECONDS):
                return await writer.look()
        except TimeoutError:
            raise Unavailable("the audit cannot be read: the disk does not answer", "check the disk") from None

    async def _past(self, count: int) -> AsyncGenerator[list[Record], None]:
        if self._writer is None:
            if records := self._feed.last(count):
                yield records
            return
        if count <= 0:
            return
        sight = await self._sight(self._writer)
        try:
            pages: Iterator[list[Record]] = tail(sight.sources, count, _PAGE)
            while page := await asyncio.to_thread(next, pages, None):
                yield page
        except OSError as error:
            raise Unavailable(f"the audit cannot be read: {error.strerror or error}", "check the disk") from error
        finally:
            sight.stack.close()
