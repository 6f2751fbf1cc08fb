"""Worker threads with a session each, and the way to them from the event loop and back.

The event loop never waits for a thread and a thread never waits for the event loop. A wake-up costs more
than an operation on a fast token, so they are batched on both ways: a burst of calls wakes as many workers
as its expected duration deserves, and results travel back together.

A C call cannot be cancelled. The pool bounds its queue, answers late calls itself, and counts stuck workers.
Knows nothing of what the jobs do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar, TypeVarTuple

from kmsd.errors import DeadlineExceeded, Internal, KmsdError, Overloaded
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.session import TokenSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WORTH_SECONDS: Final = 0.002
"""Another worker is worth waking when the calls that wait would take this long: on a token in software, two threads
that pass the interpreter lock back and forth are slower than one."""
_LOCK_SECONDS: Final = 0.0005
"""What an operation may seem to take longer because its thread waits for the interpreter lock: that is no reason for
another worker, which would wait for it, too, and make all of them seem slower."""
_BATCH_SECONDS: Final = 0.0005
"""Results travel back together, but none waits longer for the others."""
_FORGET: Final = 1.001
"""How much longer, per operation, the token is believed to have become while no short one is seen."""
_SWEEP_SECONDS: Final = 0.05


Observe = Callable[[Callable[..., object], float], None]
"""Told of a function that ran on a worker, and how many seconds it took."""


def ignore(fn: Callable[..., object], seconds: float) -> None:
    pass


@dataclass(frozen=True)
class PoolView:
    """What the workers are doing now."""

    configured: int
    open: int
    busy: int
    stuck: int
    queued: int


class _Job:
    __slots__ = ("args", "deadline", "error", "fn", "future", "result", "retry")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        future: asyncio.Future[Any],
        deadline: float,
        retry: bool,
    ) -> None:
        self.fn = fn
        self.args = args
        self.future = future
        self.deadline = deadline
        self.retry = retry
        self.result: Any = None
        self.error: BaseException | None = None


class _Worker:
    __slots__ = ("bell", "busy_since", "session", "thread")

    def __init__(self, session: TokenSession | None) -> None:
        self.session = session
        self.bell = threading.Lock()
        self.bell.acquire()
        self.busy_since = 0.0
        self.thread: threading.Thread | None = None


class Pool:
    """Threads that run functions of (session, *args).

    open_session: makes a session, on a worker's thread; raises CkrError.
    sessions: the ones opened already, one worker each.
    on_lost: called on the event loop when an operation failed, and failed again on a new session, in a way
    that may mean that the token is away.
    observe: told of each job that ended well, on the worker's thread.
    """

    def __init__(
        self,
        open_session: Callable[[], TokenSession],
        sessions: list[TokenSession],
        *,
        loop: asyncio.AbstractEventLoop,
        queue: int,
        stuck_after: float,
        on_lost: Callable[[CkrError], None],
        observe: Observe = ignore,
    ) -> None:
        self._observe = observe
        self._open_session = open_session
        self._loop = loop
        self._queue = queue
        self._stuck_after = stuck_after
        self._on_lost = on_lost
        self._jobs: deque[_Job] = deque()
        self._done: deque[_Job] = deque()
        self._idle: deque[_Worker] = deque()
        self._pending: set[_Job] = set()
        self._bell_due = False
        self._closing = False
        self._beside: list[threading.Thread] = []
        self._seconds = _BATCH_SECONDS
        self._workers = [_Worker(session) for session in sessions]
        for number, worker in enumerate(self._workers):
            worker.thread = threading.Thread(target=self._work, args=(worker,), name=f"hsm-{number}", daemon=True)
            worker.thread.start()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)

    def submit(
        self,
        fn: Callable[[TokenSession, *Ts], T],
        *args: *Ts,
        timeout: float,
        retry: bool = True,
    ) -> asyncio.Future[T]:
        """Run fn(session, *args) on a worker; the future ends with its result or its exception.

        timeout: seconds until the future ends with DeadlineExceeded, whatever the token does.
        retry: whether fn may run a second time, on a new session, after a failure of the session.
        Raises Overloaded. Called on the event loop only.
        """
        if len(self._jobs) >= self._queue or self._closing:
            raise Overloaded(
                f"the queue of the token is full: {len(self._jobs)} calls wait for it already (token.queue)",
                "the token is slower than its callers: raise token.sessions, or look at its health",
            )
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(fn, args, future, monotonic() + timeout, retry)
        self._pending.add(job)
        self._jobs.append(job)
        if not self._bell_due:
            # At the end of this turn of the loop, so that calls which came together are handed over together.
            self._bell_due = True
            self._loop.call_soon(self._wake_enough)
        return future

    def beside(self, fn: Callable[[Callable[[], bool]], T]) -> asyncio.Future[T]:
        """Run fn(ending) on a thread of its own: for what takes long and opens its own sessions, so that no call waits
        for it. `drain` waits for it; `ending` tells it to leave the module soon. Raises Overloaded."""
        if self._closing:
            raise Overloaded("the token is being reconnected", "try again")
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = fn(lambda: self._closing)
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
                self._call_loop(_set_exception, future, error)
            else:
                self._call_loop(_set_result, future, result)

        thread = threading.Thread(target=run, name="hsm-beside", daemon=True)
        self._beside = [*(each for each in self._beside if each.is_alive()), thread]
        thread.start()
        return future

    def _wake_enough(self) -> None:
        """Wake as many workers as the calls that wait deserve; the one at work takes what little there is."""
        self._bell_due = False
        deserved = 1 + int(len(self._jobs) * max(0.0, self._seconds - _LOCK_SECONDS) / _WORTH_SECONDS)
        working = len(self._workers) - len(self._idle)
        for _ in range(min(len(self._jobs), deserved) - working):
            self._wake_one()

    def _wake_one(self) -> None:
        with contextlib.suppress(IndexError):
            self._idle.pop().bell.release()

    def forget_handles(self, gone: frozenset[bytes]) -> None:
        """Make every session look the keys with these CKA_IDs up again: they have changed."""
        for worker in self._workers:
            # Single dict operations, atomic under the interpreter lock; a look-up in flight just repeats itself.
            if worker.session is not None:
                worker.session.forget(gone)

    def view(self) -> PoolView:
        now = monotonic()
        busy = [w.busy_since for w in self._workers if w.busy_since]
        return PoolView(
            configured=len(self._workers),
            open=sum(w.session is not None for w in self._workers),
            busy=len(busy),
            stuck=sum(now - since > self._stuck_after for since in busy),
            queued=len(self._jobs),
        )

    @property
    def stuck_since(self) -> float | None:
        """Since when, by the monotonic clock, every worker has been inside one call; None if one is not."""
        since = [worker.busy_since for worker in self._workers]
        return max(since) if all(since) else None

    @property
    def inside(self) -> bool:
        """Whether a thread may be inside the module."""
        return any(thread.is_alive() for thread in self._threads())

    async def drain(self, timeout: float) -> bool:
        """Stop taking calls, end the workers, close their sessions. False if one is still inside the module."""
        self._closing = True
        deadline = monotonic() + timeout
        while self._idle:
            self._wake_one()
        while self.inside:
            if monotonic() > deadline:
                return False
            while self._idle:
                self._wake_one()
            await asyncio.sleep(0.01)
        self._sweeper.cancel()
        self._drain_results()
        for job in tuple(self._pending):
            self._fail(job, Overloaded("the token is being reconnected", "try again"))
        return True

    def _threads(self) -> list[threading.Thread]:
        return [*(worker.thread for worker in self._workers if worker.thread is not None), *self._beside]

    # On the event loop.

    def _drain_results(self) -> None:
        done = self._done
        pending = self._pending
        while done:
            job = done.popleft()
            pending.discard(job)
            future = job.future
            if future.done():
                continue
            if job.error is None:
                future.set_result(job.result)
            else:
                future.set_exception(job.error)

    def _fail(self, job: _Job, error: KmsdError) -> None:
        self._pending.discard(job)
        if not job.future.done():
            job.future.set_exception(error)

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        if not self._pending:
            return
        # Results may lie behind a call that hangs: their worker rings only when it has done a batch.
        self._drain_results()
        now = monotonic()
        late = [job for job in self._pending if job.deadline < now]
        for job in late:
            view = self.view()
            self._fail(
                job,
                DeadlineExceeded(
                    "the token did not answer in time"
                    + (f": {view.stuck} of {view.configured} sessions are stuck" if view.stuck else ""),
                    "check the token and the network to it; the call may be repeated",
                ),
            )
        # A worker stuck in a C call takes no jobs, so those behind it need another; one that goes from call to call
        # takes them soon, and two that pass the interpreter lock back and forth are slower than one.
        moving = any(0 < now - worker.busy_since <= _SWEEP_SECONDS for worker in self._workers)
        if self._jobs and self._idle and not moving:
            self._wake_one()

    # On the workers' threads.

    def _work(self, worker: _Worker) -> None:
        jobs, idle = self._jobs, self._idle
        unrung = 0.0
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                if unrung:
                    unrung = 0.0
                    self._call_loop(self._drain_results)
                if self._closing:
                    break
                idle.append(worker)
                if jobs or self._closing:
                    # A job may have come between the look and the lying down. If somebody has already
                    # taken us off the list, they will ring, and the ring must be used up.
                    try:
                        idle.remove(worker)
                    except ValueError:
                        worker.bell.acquire()
                else:
                    worker.bell.acquire()
                continue
            if job.future.done():
                continue
            began = worker.busy_since = monotonic()
            try:
                job.result = self._run(worker, job)
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
                job.error = error
            now = monotonic()
            # Near the shortest of the last operations: the others also hold time spent waiting for the
            # interpreter lock, and more workers would only make that longer.
            if job.error is None:
                self._seconds = min(now - began, self._seconds * _FORGET)
                self._observe(job.fn, now - began)
            worker.busy_since = 0.0
            self._done.append(job)
            if now - (unrung or began) > _BATCH_SECONDS:
                unrung = 0.0
                self._call_loop(self._drain_results)
            elif not unrung:
                unrung = began
        if worker.session is not None:
            with contextlib.suppress(CkrError):
                worker.session.close()
            worker.session = None

    def _run(self, worker: _Worker, job: _Job) -> Any:
        session = worker.session
        if session is None:
            session = worker.session = self._renew()
        try:
            return job.fn(session, *job.args)
        except CkrError as error:
            if not (error.stale_session or error.lost):
                raise
            if not job.retry:
                with contextlib.suppress(CkrError):
                    self._replace(worker)
                raise
        session = self._replace(worker)
        try:
            return job.fn(session, *job.args)
        except CkrError as error:
            if error.lost:
                with contextlib.suppress(CkrError):
                    self._replace(worker)
                self._call_loop(self._on_lost, error)
            raise

    def _replace(self, worker: _Worker) -> TokenSession:
        """A new session for a worker: after a failed operation the old one may be left in the middle of it."""
        session, worker.session = worker.session, None
        if session is not None:
            with contextlib.suppress(CkrError):
                session.close()
        worker.session = self._renew()
        return worker.session

    def _renew(self) -> TokenSession:
        try:
            return self._open_session()
        except CkrError as error:
            self._call_loop(self._on_lost, error)
            raise

    def _call_loop(self, fn: Callable[..., object], *args: object) -> None:
        # RuntimeError: the loop is closed, kmsd is ending; nobody waits for this any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def unexpected(error: BaseException) -> KmsdError:
    """A job's exception that is no KmsdError and no CkrError: a bug, told without its details."""
    return error if isinstance(error, KmsdError) else Internal(f"unexpected {type(error).__name__}")
