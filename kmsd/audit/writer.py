"""The thread that writes the audit: takes batches from the event loop, and never makes it wait.

What cannot be written stays and is tried again, after 0.5 s at first and 30 s in the end, and at once when an admin
action waits for it. Whatever goes wrong becomes a `WriteFailure`, never an exception in somebody else's way.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar, TypeVarTuple, Unpack

from kmsd.audit.chain import START, Entry, Head, Kind, Record, Source
from kmsd.audit.file import DISTURBED, AuditFile
from kmsd.audit.torn import Note
from kmsd.errors import KmsdError, Unavailable
from kmsd.observe import logs

log = logs.get_logger("kmsd.audit")

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

CHUNK: Final = 256
"""Records that are written at once."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_HANGS_AFTER: Final = 10.0
"""Seconds for which the thread may be busy at a time before the disk is said to hang."""
_LOOK_SECONDS: Final = 5.0
"""Seconds between looks at a file that nothing is written to, for what other programs do to it."""
LOST: Final = "DATA_LOSS"
"""Outcome of the events that say that records are missing or were changed."""


@dataclass(frozen=True)
class WriteFailure:
    """The reason why the audit is not written. message: one sentence. hint: what to do."""

    message: str
    hint: str


@dataclass(frozen=True)
class Sight:
    """The files of the chain as they are at one moment, opened, from the record `oldest`, if that is known, up to
    `head`. Whoever asked for it closes it."""

    stack: ExitStack
    sources: list[Source]
    head: Head
    oldest: int | None


@dataclass(frozen=True)
class _Batch:
    entries: list[Entry]
    waiter: asyncio.Future[bool] | None


@dataclass(frozen=True)
class _Look:
    waiter: asyncio.Future[Sight]


class Writer:
    """The thread that writes one chain, and its hand-over from the event loop.

    kind: of the records about the file itself. begun: what the first record of a new chain says; empty: there is no
    such record. recalled: called on the loop with what the file recalls when it has been opened. written: called on the
    loop with the records that were written, and how many of them came in batches.

    The methods are the loop's; what begins with an underscore runs in the thread.
    """

    def __init__(
        self,
        file: AuditFile,
        loop: asyncio.AbstractEventLoop,
        written: Callable[[list[Record], int], None],
        recalled: Callable[[list[Record]], None],
        now: Callable[[], float],
        *,
        kind: Kind,
        begun: str,
    ) -> None:
        self._file = file
        self._loop = loop
        self._on_written = written
        self._on_recalled = recalled
        self._now = now
        self._kind = kind
        self._begun = begun
        self._jobs: queue.SimpleQueue[_Batch | _Look | None] = queue.SimpleQueue()
        self._pending: deque[Entry] = deque()
        self._notes: list[Entry] = []
        self._disturbed = ""
        self._waiters: list[asyncio.Future[bool]] = []
        self._looks: list[asyncio.Future[Sight]] = []
        self._trouble: WriteFailure | None = None
        self._full: WriteFailure | None = None
        self._pause = 0.0
        self._retry_at: float | None = None
        self._busy_since: float | None = None
        self._closing = False
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="kmsd-audit", daemon=True)

    @property
    def trouble(self) -> WriteFailure | None:
        busy = self._busy_since
        if busy is not None and (seconds := time.monotonic() - busy) > _HANGS_AFTER:
            return WriteFailure(
                f"writing the audit {self._file.path} has been hanging for {seconds:.0f} s",
                "check the disk, or the network file system, that it is on",
            )
        return self._trouble or self._full

    @property
    def head(self) -> Head:
        return self._file.head

    def start(self) -> None:
        """Begin to write; the file has been opened, or has given trouble."""
        self._thread.start()

    def write(self, entries: list[Entry], waiter: asyncio.Future[bool] | None = None) -> None:
        """Hand entries over. waiter: gets True when all of these are on the disk, and False at the first failure."""
        self._jobs.put(_Batch(entries, waiter))

    async def look(self) -> Sight:
        """Return the files, after everything that was handed over before has been written. Raises Unavailable."""
        waiter: asyncio.Future[Sight] = self._loop.create_future()
        self._jobs.put(_Look(waiter))
        return await waiter

    async def close(self, patience: float) -> bool:
        """Write what is left and end. Returns False if that took more than `patience` seconds."""
        self._jobs.put(None)
        try:
            async with asyncio.timeout(patience):
                await asyncio.shield(self._ended)
        except TimeoutError:
            return False
        return True

    def note(self, notes: list[Note]) -> None:
        """Put events of the file itself before what waits. Only whoever has the file may call this."""
        for action, detail in notes:
            outcome = LOST if action == DISTURBED else "OK"
            unix_ms = int(self._now() * 1000)
            self._notes.append(Entry(unix_ms=unix_ms, kind=self._kind, action=action, outcome=outcome, detail=detail))

    def opened(self, notes: list[Note]) -> None:
        """Note that the file has been opened. Only whoever has it may call this."""
        for action, detail in notes:
            log.warning(action, detail=detail)
        self.note(notes)
        if self._begun and self._file.head == START:
            self.note([("audit begun", self._begun)])
        recalled, self._file.recalled = self._file.recalled, []
        self._tell(self._on_recalled, recalled)
        log.info("audit opened", **self._place())

    def failed(self, error: Exception) -> None:
        """Remember why the file cannot be written, and when to try again. Only whoever has it may call this."""
        trouble = explain(error, self._file)
        if self._trouble is None or self._trouble.message != trouble.message:
            log.error(trouble.message, hint=trouble.hint)
        self._trouble = trouble
        self._pause = min(max(_FIRST_PAUSE, self._pause * 2), _LONGEST_PAUSE)
        self._retry_at = time.monotonic() + self._pause

    def _run(self) -> None:
        try:
            while not self._closing:
                idle = self._collect()
                self._turn(idle=idle)
            if self._pending:
                log.error("audit records were not written", records=len(self._pending))
            elif self._file.is_open:
                log.info("audit closed", **self._place())
        finally:
            self._file.close()
            self._tell(_answer, self._ended, None)

    def _collect(self) -> bool:
        """Take what there is to do, once there is something. Returns True if nothing came for a while."""
        wait = _LOOK_SECONDS if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())
        try:
            self._take(self._jobs.get(timeout=wait))
        except queue.Empty:
            return True
        with suppress(queue.Empty):
            while True:
                self._take(self._jobs.get_nowait())
        return False

    def _take(self, job: _Batch | _Look | None) -> None:
        match job:
            case _Batch(entries, waiter):
                self._pending.extend(entries)
                if waiter is not None:
                    self._waiters.append(waiter)
            case _Look(waiter):
                self._looks.append(waiter)
            case None:
                self._closing = True

    def _turn(self, *, idle: bool) -> None:
        self._busy_since = time.monotonic()
        # Look whether somebody else has touched the file even when there is nothing to write.
        work = idle or self._pending or self._notes or self._retry_at is not None
        due = self._retry_at is None or time.monotonic() >= self._retry_at
        # A look gets the files as they are, before a damaged end is mended.
        if (work and due) or self._waiters or self._closing:
            done = self._attempt()
            for waiter in self._waiters:
                self._tell(_answer, waiter, done)
            self._waiters.clear()
        for look in self._looks:
            self._show(look)
        self._looks.clear()
        self._busy_since = None

    def _attempt(self) -> bool:
        try:
            self._write(sync=bool(self._waiters) or self._closing)
        except (OSError, KmsdError) as error:
            self.failed(error)
            return False
        except Exception as error:  # noqa: BLE001  a bug here must not end the thread: nothing would be recorded again
            self.failed(error)
            return False
        if self._trouble is not None:
            log.info("the audit is written again", seq=self._file.head.seq)
        self._trouble, self._pause, self._retry_at = None, 0.0, None
        return True

    def _write(self, sync: bool) -> None:
        file = self._file
        if file.is_open:
            self._disturbed = file.disturbed()
        if self._disturbed or not file.is_open:
            self.opened(_one(self._disturbed, file.open()))
            self._disturbed = ""
        while self._notes or self._pending:
            chunk = list(islice(self._pending, CHUNK))
            records = file.append([*self._notes, *chunk])
            self._notes.clear()
            for _ in chunk:
                self._pending.popleft()
            self._tell(self._on_written, records, len(chunk))
            self._rotate()
        if sync:
            file.sync()

    def _rotate(self) -> None:
        """Put a full file aside. A file that cannot be put aside grows on: the records come first."""
        if not self._file.full:
            return
        try:
            self.note(self._file.rotate())
            self.note(self._file.prune())
        except OSError as error:
            trouble = explain(error, self._file, "put aside")
            if self._full is None:
                log.error(trouble.message, hint=trouble.hint)
            self._full = trouble
            if not self._file.is_open:
                raise
        else:
            self._full = None
            log.info("audit goes on in a new file", **self._place())

    def _show(self, waiter: asyncio.Future[Sight]) -> None:
        stack = ExitStack()
        try:
            sight = Sight(stack, self._file.sources(stack), self._file.head, self._file.oldest)
        except Exception as error:  # noqa: BLE001  a bug here must not end the thread
            stack.close()
            trouble = explain(error, self._file, "read")
            self._tell(_refuse, waiter, Unavailable(trouble.message, trouble.hint))
        else:
            self._tell(_hand_over, waiter, sight)

    def _place(self) -> dict[str, object]:
        return {"file": str(self._file.path), "seq": self._file.head.seq, "head": self._file.head.hash}

    def _tell(self, callback: Callable[[Unpack[_Ts]], object], *arguments: *_Ts) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _one(disturbed: str, notes: list[Note]) -> list[Note]:
    """Return one note of all that was done to a file at once, followed by the others."""
    told = [text for text in (disturbed, *(detail for action, detail in notes if action == DISTURBED)) if text]
    return [*([(DISTURBED, "; ".join(told))] if told else []), *(each for each in notes if each[0] != DISTURBED)]


def _answer(waiter: asyncio.Future[_T], answer: _T) -> None:
    if not waiter.done():
        waiter.set_result(answer)


def _refuse(waiter: asyncio.Future[Sight], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)


def _hand_over(waiter: asyncio.Future[Sight], sight: Sight) -> None:
    if waiter.done():  # whoever asked has gone
        sight.stack.close()
    else:
        waiter.set_result(sight)


def explain(error: Exception, file: AuditFile, what: str = "written") -> WriteFailure:
    """Return the sentence and the hint for an operator."""
    if isinstance(error, KmsdError):
        return WriteFailure(f"the audit cannot be {what}: {error.message}", error.hint)
    directory = file.path.parent
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) and error.strerror else "") or str(error)
    named = error.filename if isinstance(error, OSError) else None
    if named and str(named) not in (str(file.path), str(directory)):
        reason = f"{named}: {reason}"
    match number:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            hint = f"make room in {directory}; what is not written waits, and is lost if it becomes too much"
        case errno.EACCES | errno.EPERM:
            hint = f"let kmsd's user write to {directory}, or name another file (audit.file)"
        case errno.EROFS:
            hint = f"make {directory} writable, or name another file (audit.file)"
        case errno.ELOOP:
            hint = "the file must not be a symbolic link"
        case errno.EINVAL:
            hint = "move it away, or name another file (audit.file)"
        case _:
            hint = f"check {directory}"
    if not isinstance(error, OSError):
        reason = f"unexpected {type(error).__name__}"
    return WriteFailure(f"the audit {file.path} cannot be {what}: {reason}", hint)
