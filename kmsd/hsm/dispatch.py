"""Calls on their way from the queue to the host that serves, and their answers on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial
from time import monotonic
from typing import Final

from kmsd.errors import KmsdError
from kmsd.hsm import wire
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.seats import Resized, Seats
from kmsd.hsm.login import Connected
from kmsd.hsm.operation import Operation, definition_of
from kmsd.hsm.process import HostProcess, crashed
from kmsd.hsm.queue import Job, Queue
from kmsd.hsm.sizing import SLOW_SECONDS, Sizing

_LOOKAHEAD_SECONDS: Final = 0.002
"""Seconds of work that may lie with a host beyond what its sessions are doing."""
_LOOKAHEAD_MOST: Final = 256
_RESIZE_SECONDS: Final = 10.0


class Dispatch:
    """The way of calls to the host that serves. connected: the token as it is used now, or None. observe: told of every
    operation that was done. lost: told of one that failed in a way that may mean that the token is away.

    sizing: how many sessions serve.
    """

    def __init__(
        self,
        address: TokenAddress,
        observe: Callable[[Operation, float], None],
        lost: Callable[[CkrError], None],
    ) -> None:
        self.connected: Connected | None = None
        self.queue = Queue(address.queue, lambda: (self.load[2], self.load[0]), self.pump)
        self.sizing = Sizing(address.sessions, address.most_sessions, self._ask_for_sessions)
        self._stuck_after = address.stuck_after
        self._observe = observe
        self._lost = lost
        self._answered_at = 0.0

    @property
    def load(self) -> tuple[int, int, int]:
        """The counts (sessions that serve, calls with the host, sessions whose call has not come back for long)."""
        connected = self.connected
        if connected is None:
            return 0, 0, 0
        inside, oldest = connected.host.serving()
        stuck = self.stuck(connected.host) if oldest and oldest < monotonic() - self._stuck_after else 0
        return self.sizing.sessions, inside, min(stuck, self.sizing.sessions)

    @property
    def silent(self) -> float:
        """The seconds for which the token has owed an answer without giving any; 0 if it owes none."""
        oldest = self.connected.host.serving()[1] if self.connected is not None else 0.0
        return monotonic() - max(oldest, self._answered_at) if oldest else 0.0

    def stuck(self, host: HostProcess) -> int:
        """Return how many calls of a host have not come back for long."""
        return host.stuck(monotonic() - self._stuck_after)

    def use(self, fresh: Connected) -> Connected | None:
        """Send to this host from now on. Returns the host of before."""
        old, self.connected = self.connected, fresh
        fresh.host.answered = self._answered
        self._answered_at = monotonic()
        self.sizing.begin(fresh.sessions, alone=not fresh.multithreaded or fresh.quirks.serial)
        self.pump()
        return old

    def pump(self) -> None:
        """Send the host what it can begin soon."""
        connected = self.connected
        if connected is None:
            return
        seconds = self.queue.seconds
        sessions, inside, stuck = self.load
        at_once = sessions if seconds > SLOW_SECONDS else 1
        ahead = min(_LOOKAHEAD_MOST, int(at_once * _LOOKAHEAD_SECONDS / seconds)) if seconds else 0
        free = sessions + ahead - inside + stuck
        jobs: list[Job] = []
        while len(jobs) < free:
            job = self.queue.take(idle=not inside and not jobs)
            if job is None:
                break
            jobs.append(job)
        if jobs:
            connected.host.send(jobs)

    def _ask_for_sessions(self, wanted: int) -> None:
        connected = self.connected
        if connected is None:
            return
        future: asyncio.Future[Resized] = asyncio.get_running_loop().create_future()
        future.add_done_callback(partial(self._resized, connected))
        job = Job(definition_of(Seats.resize), (wanted,), future, monotonic() + _RESIZE_SECONDS)
        job.retry, job.sent = False, monotonic()
        connected.host.send([job])

    def _resized(self, connected: Connected, future: asyncio.Future[Resized]) -> None:
        error = future.exception()
        if self.connected is not connected:
            return
        if error is None:
            self.sizing.resized(*astuple(future.result()))
        else:
            self.sizing.resized(self.sizing.sessions, error.name if isinstance(error, CkrError) else str(error))
        self.pump()

    def hand_back(self, host: HostProcess, *, again: bool) -> KmsdError:
        """Have what a host that is gone has not answered done by the next one, where that is safe; else end it with the
        error that is returned. again: there will be a next one."""
        jobs = host.take_back()
        error = crashed(host, jobs)
        for job in reversed(jobs):
            if job.future.done():
                continue
            # Whether it may be tried in a new session does not matter here: this host said nothing of the token.
            if again and not job.repeated and not job.done.beside:
                self.queue.give_back(job)
            else:
                self.queue.fail(job, error.again())
        return error

    def _answered(self, answers: Sequence[tuple[Job, wire.Reply]]) -> None:
        if not answers:
            return
        self._answered_at = monotonic()
        self.queue.answered([(job, reply.seconds) for job, reply in answers])
        took = [reply.seconds for job, reply in answers if not job.done.beside]
        inside = len(took) + self.load[1]
        waiting = inside > self.sizing.sessions or len(self.queue) > 0
        self.sizing.answered(took, inside, self.queue.seconds, waiting=waiting)
        for job, reply in answers:
            error = wire.deliver(reply, job.done.result, job.future)
            if error is None:
                self._observe(job.done.name, reply.seconds)
            elif isinstance(error, CkrError) and reply.failure is not None and reply.failure.lost:
                self._lost(error)
        if len(self.queue):
            self.pump()
