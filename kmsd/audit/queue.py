"""One chain of the audit: what waits for its file, and what is lost because too much waits.

Admin actions wait for the disk; everything else is written in batches by a thread, and lost when kmsd is killed within
a tenth of a second. Nothing here fails a call because of the disk: what is wrong is in `trouble`.

All of it belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kmsd.audit.chain import START, Entry, Head, Kind, Record, make
from kmsd.audit.file import AuditFile
from kmsd.audit.lock import InUse
from kmsd.audit.torn import Note
from kmsd.audit.writer import LOST, Sight, WriteFailure, Writer, explain
from kmsd.errors import KmsdError, Unavailable
from kmsd.observe import logs

log = logs.get_logger("kmsd.audit")

KEPT: Final = 1000
"""Records that are remembered when none are written."""
QUEUE: Final = 10_000
"""Records that may wait for the disk; more are lost, and counted. Admin actions are never turned away."""
_FLUSH_SECONDS: Final = 0.1
_WAIT_SECONDS: Final = 5.0
"""The longest that anybody waits for the disk."""
_LOCK_SECONDS: Final = 3.0
"""The time for which a kmsd that is ending may still hold the lock."""


class Chain:
    """A chain of the audit with what waits for its file.

    file: where it is written; None: nowhere, but its last KEPT records are remembered. kind: of the records about the
    chain itself. begun: what the first record of a new chain says; empty: there is no such record.

    waiting: records that are not written yet. lost: records that were lost since kmsd started.

    told: called with each record once it is written. recalled: called with what the file recalls when it has been
    opened. now: Unix seconds. recent: the last records, of a chain that is not written.
    """

    def __init__(
        self,
        file: AuditFile | None,
        told: Callable[[Record], None],
        recalled: Callable[[list[Record]], None],
        now: Callable[[], float],
        *,
        kind: Kind,
        begun: str = "",
    ) -> None:
        self.recent: deque[Record] = deque(maxlen=KEPT)
        self._file = file
        self._told = told
        self._recalled = recalled
        self._now = now
        self._kind = kind
        self._begun = begun
        self._writer: Writer | None = None
        self._unwritten_head = START
        self._gathered: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0
        self.lost = 0
        self._lost = 0
        self._closed = False
        self._in_use: WriteFailure | None = None

    async def start(self) -> None:
        """Open the file, and begin to write. Raises InUse if another kmsd has it; any other trouble is in `trouble`."""
        file = self._file
        if file is None:
            return
        loop = asyncio.get_running_loop()
        writer = Writer(file, loop, self._written, self._recalled, self._now, kind=self._kind, begun=self._begun)
        try:
            writer.opened(await _open(file))
        except InUse as error:
            self._in_use = explain(error, file)
            raise
        except (OSError, KmsdError) as error:
            writer.failed(error)
        writer.start()
        self._writer = writer
        self._flush()

    async def close(self, patience: float) -> bool:
        """Write what is left. Returns False if that took more than `patience` seconds."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._lost:
            self._tell_loss()
        self._flush()
        return self._writer is None or await self._writer.close(patience)

    @property
    def head(self) -> Head:
        """The seq and the hash of the last record."""
        return self._writer.head if self._writer is not None else self._unwritten_head

    @property
    def writes(self) -> bool:
        return self._writer is not None

    @property
    def trouble(self) -> WriteFailure | None:
        """The reason why records are missing or may come to be missing, if any."""
        trouble = self._writer.trouble if self._writer is not None else self._in_use
        if trouble is None and self._lost:
            return WriteFailure(
                f"{self._lost} audit records were lost: there were more than could be written",
                'record fewer calls (audit.kms = "sampled"), or use a faster disk',
            )
        return trouble

    def put(self, entry: Entry) -> None:
        """Record the entry soon, unless there is no room for it."""
        if self._closed:
            return
        if self.waiting >= QUEUE:
            self._lost += 1
            self.lost += 1
            return
        if self._lost:
            self._tell_loss()
        self._gather(entry)
        if self._timer is None and self._writer is not None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    async def surely(self, entry: Entry) -> bool:
        """Record the entry, and return True when it is on the disk, False if it is not within 5 s. Without a file,
        return True at once."""
        self._gather(entry)
        if self._file is None:
            return True
        if self._writer is None or self._closed:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._flush(waiter)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await waiter
        except TimeoutError:
            return False

    async def sight(self) -> Sight:
        """Return the files of the chain, with everything that was put before. Raises Unavailable, also for a chain that
        is not written."""
        if self._writer is None:
            raise Unavailable("the audit is not written to a file", "see kmsctl status")
        self._flush()
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await self._writer.look()
        except TimeoutError:
            raise Unavailable("the audit cannot be read: the disk does not answer", "check the disk") from None

    def _tell_loss(self) -> None:
        lost, self._lost = self._lost, 0
        self._gather(
            Entry(
                unix_ms=int(self._now() * 1000),
                kind=self._kind,
                action="audit records lost",
                outcome=LOST,
                detail=f"{lost} records before this one: there were more than could be written",
            )
        )

    def _gather(self, entry: Entry) -> None:
        if self._file is None:
            record = make(entry, self._unwritten_head)
            self._unwritten_head = record.head
            self.recent.append(record)
            self._told(record)
            return
        self.waiting += 1
        self._gathered.append(entry)

    def _flush(self, waiter: asyncio.Future[bool] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is not None and (self._gathered or waiter is not None):
            gathered, self._gathered = self._gathered, []
            self._writer.write(gathered, waiter)

    def _written(self, records: list[Record], count: int) -> None:
        self.waiting -= count
        for record in records:
            self._told(record)


async def _open(file: AuditFile) -> list[Note]:
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return await asyncio.to_thread(file.open)
        except InUse:
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(0.1)
