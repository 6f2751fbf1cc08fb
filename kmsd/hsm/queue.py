"""The calls that wait for one token: who is next, who is too late, and who is refused at once.

A queue of calls whose callers have gone serves nobody. So a call that cannot end within its deadline is refused when it
comes, with the wait that it would have had; what became too late meanwhile is dropped before it costs the token
anything; and each share gets its part, however many calls another one brings. Knows nothing of processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from kmsd.errors import DeadlineExceeded, KmsdError, Overloaded
from kmsd.hsm.operation import Definition
from kmsd.share import Share, share

_WEIGHTS: Final = {Share.HEALTH: 8.0, Share.ADMIN: 2.0, Share.V2: 4.0, Share.V1BETA1: 4.0, Share.JWT: 1.0}
"""Weight of each share's part while others wait, too."""
_SWEEP_SECONDS: Final = 0.05
_MARGIN_SECONDS: Final = 0.05
"""Time left for the way back to the caller."""
_SLOWER: Final = 0.1
_FASTER: Final = 0.5
"""Weight of the newest measurement, when it is longer or shorter than what is expected: a token that is believed to be
slow refuses calls, so one short answer counts for much, and one that hung for little."""


class Job:
    """A call. until: of the monotonic clock. retry: whether it may be done a second time.

    sent: when it went to a host, 0 while it waits. repeated: it was with a host that died.
    """

    __slots__ = ("args", "done", "future", "repeated", "retry", "sent", "share", "until")

    def __init__(self, done: Definition, args: tuple[Any, ...], future: asyncio.Future[Any], until: float) -> None:
        self.done = done
        self.args = args
        self.future = future
        self.until = until
        self.retry = True
        self.repeated = False
        self.sent = 0.0
        self.share = share.get()


class Queue:
    """The calls that wait. most: calls of one share that may wait. stuck: tells how many sessions are stuck, and of how
    many, for the error.

    ready: called when a call came: at once if it is alone, else at the end of the turn of the event loop.
    """

    def __init__(self, most: int, stuck: Callable[[], tuple[int, int]], ready: Callable[[], None]) -> None:
        self._most = most
        self._stuck = stuck
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Share, deque[Job]] = {each: deque() for each in Share}
        self._passed = dict.fromkeys(Share, 0.0)
        """The number of calls that each share has had, divided by its weight: the share with the least is next."""
        self._now = 0.0
        self._pending: set[Job] = set()
        self._due = False
        self._sweeper: asyncio.TimerHandle | None = None
        self.interval = 0.0
        """Seconds between two answers of the token while calls waited; 0 while none did."""
        self.seconds = 0.0
        """The seconds that an operation takes on the token."""
        self.refused = 0
        """The number of calls that were refused when they came."""
        self._answered_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def submit(self, done: Definition, args: tuple[Any, ...], timeout: float, retry: bool) -> asyncio.Future[Any]:
        """Have something done; the future ends with its result or its exception, within `timeout` seconds. Raises
        Overloaded."""
        future: asyncio.Future[Any] = self._loop.create_future()
        job = Job(done, args, future, monotonic() + timeout)
        job.retry = retry
        waiting = self._waiting[job.share]
        self._refuse(job, waiting, timeout)
        if not waiting:
            self._passed[job.share] = max(self._passed[job.share], self._now)
        waiting.append(job)
        self._pending.add(job)
        self._wake()
        return future

    def _refuse(self, job: Job, waiting: deque[Job], timeout: float) -> None:
        if job.share is Share.HEALTH:
            return
        wait = self._expected(job.share, len(waiting))
        if len(waiting) >= self._most:
            self.refused += 1
            raise Overloaded(
                f"the queue of the token is full: {len(waiting)} calls wait for it already (token.queue)",
                "the token is slower than its callers: look at its health, or raise token.sessions if it is a number",
            )
        if waiting and wait + self.seconds + _MARGIN_SECONDS > timeout:
            self.refused += 1
            raise Overloaded(
                f"the call would wait {wait:.1f} s for the token, and its caller waits {timeout:.1f} s",
                "the token is slower than its callers: try again later, look at its health, or raise token.sessions if "
                "it is a number",
            )

    def _expected(self, whose: Share, ahead: int) -> float:
        """Return the seconds until a call of this share begins that comes behind `ahead` others."""
        active = sum(_WEIGHTS[each] for each, jobs in self._waiting.items() if jobs or each is whose)
        return min(ahead * active / _WEIGHTS[whose], len(self)) * self.interval

    def _wake(self) -> None:
        if len(self._pending) == 1:
            # No other call is pending: there is none to hand over together with this one.
            self._ready()
            self._sweep_later()
        else:
            self._wake_later()

    def _wake_later(self) -> None:
        if not self._due:
            # At the end of this turn of the loop, so that calls which came together are handed over together.
            self._due = True
            self._loop.call_soon(self._woken)
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _woken(self) -> None:
        self._due = False
        self._ready()

    def take(self, *, idle: bool) -> Job | None:
        """Return the next call, which is sent now; None if none waits that can still end in time. idle: the token has
        nothing to do, so that nothing is lost by trying."""
        now = monotonic()
        while True:
            whose = min(
                (each for each, jobs in self._waiting.items() if jobs), key=self._passed.__getitem__, default=None
            )
            if whose is None:
                return None
            job = self._waiting[whose].popleft()
            if job.future.done():
                self._pending.discard(job)
                continue
            if job.until - now < (0.0 if idle else self.seconds):
                self.fail(job, self._late())
                continue
            self._now = self._passed[whose]
            self._passed[whose] += 1.0 / _WEIGHTS[whose]
            job.sent = now
            return job

    def give_back(self, job: Job) -> None:
        """Put a call in front that a host which died did not answer."""
        job.sent, job.repeated = 0.0, True
        self._waiting[job.share].appendleft(job)
        # Never at once: whoever hands it back may not have let go of that host yet.
        self._wake_later()

    def answered(self, jobs: Sequence[tuple[Job, float]]) -> None:
        """Note what the token has done since the last time, and how many seconds each took on it. The futures are for
        the caller to end."""
        now = monotonic()
        if len(self):
            gap = (now - max(self._answered_at, min(job.sent for job, _ in jobs))) / len(jobs)
            self.interval = _expected(self.interval, gap)
        for job, seconds in jobs:
            self._pending.discard(job)
            if not job.done.beside:
                self.seconds = _expected(self.seconds, seconds)
        self._answered_at = now

    def fail(self, job: Job, error: Exception) -> None:
        """End a call with an error."""
        self._pending.discard(job)
        if not job.future.done():
            job.future.set_exception(error)

    def fail_all(self, error: KmsdError) -> None:
        """End all calls that wait, as the token is away."""
        for jobs in self._waiting.values():
            while jobs:
                self.fail(jobs.popleft(), error.again())

    def _late(self) -> DeadlineExceeded:
        stuck, configured = self._stuck()
        return DeadlineExceeded(
            "the token did not answer in time" + (f": {stuck} of {configured} sessions are stuck" if stuck else ""),
            "check the token and the network to it; the call may be repeated",
        )

    def _sweep(self) -> None:
        """End the calls whose time is over, wherever they are."""
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if self._pending else None
        now = monotonic()
        for job in [job for job in self._pending if job.until < now]:
            self.fail(job, self._late())
        if not self._pending:
            self.interval = 0.0
        elif len(self):
            self._ready()


def _expected(before: float, measured: float) -> float:
    weight = _SLOWER if measured > before else _FASTER
    return before + (measured - before) * weight if before else measured
