"""A host process as kmsd sees it: started, asked, answered, ended. Knows nothing of what is asked, or of recovery."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Any, Final, cast

import msgspec

from kmsd.connecting import carry
from kmsd.errors import KmsdError, Unavailable
from kmsd.hsm import wire
from kmsd.hsm.operation import Definition, Operation
from kmsd.hsm.queue import Job
from kmsd.observe.printed import Printed, listen

_NOT_PASSED_ON: Final = ("KMSD_", "KMSCTL_", "P11_PIN", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "WATCHDOG_")
"""Beginnings of the names of variables that a host has no use for; among them those that may hold a PIN."""
_REAP_SECONDS: Final = 5.0
_BUFFER_BYTES: Final = 1 << 20
_PATIENCE_SECONDS: Final = 2.0
"""The time that a long operation has after its own deadline: its caller asks then how far it came."""

Answered = Callable[[Sequence[tuple[Job, wire.Reply]]], None]


class HostProcess(asyncio.Protocol):
    """A host process. answered: told of the answers that came together. gone: told once, when the process has ended.

    inflight: what it was asked and has not answered, the oldest first. used: keys that were asked for since its login.
    """

    def __init__(self, answered: Answered, gone: Callable[[HostProcess], None]) -> None:
        self.inflight: dict[int, Job] = {}
        self.used: tuple[tuple[bytes, str], ...] = ()
        self.ended = asyncio.Event()
        self.answered = answered
        self._gone = gone
        self._frames = wire.Frames()
        self._number = 0
        self._beside = 0
        """The number of those in flight that leave the sessions to the calls."""
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._prints: asyncio.ReadTransport | None = None

    @classmethod
    async def start(cls, answered: Answered, gone: Callable[[HostProcess], None], printed: Printed) -> HostProcess:
        """Start a process. printed: told of what the module prints. Raises KmsdError if that cannot be done."""
        host = cls(answered, gone)
        ours, its = socket.socketpair()
        writing = -1
        try:
            host._prints, writing = await listen(printed)
            ours.setblocking(False)
            for each in (ours, its):
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            # From the main thread, whose end is what the process waits for (prctl(2), PR_SET_PDEATHSIG). -P: a file in
            # the working directory is not ours to run.
            host._process = subprocess.Popen(  # noqa: ASYNC220 - it execs, and waits for nothing
                [sys.executable, "-P", "-m", "kmsd.hsm.host", str(its.fileno())],
                pass_fds=(its.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)},
                    # One heap for all threads: see `kmsd.daemon.memory`.
                    "MALLOC_ARENA_MAX": "1",
                },
            )
        except OSError as error:
            ours.close()
            if host._prints is not None:
                host._prints.close()
            raise Unavailable(
                f"a process for the PKCS#11 module cannot be started: {error.strerror or error}",
                "check the limits of processes, memory and descriptors that kmsd runs under",
            ) from error
        finally:
            its.close()
            if writing >= 0:
                os.close(writing)
        await carry(lambda: host, ours)
        return host

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def send(self, jobs: Sequence[Job]) -> None:
        """Ask for what these calls want, in one write. What a process that is ending will not answer stays in
        `inflight`, for whoever is told that it has gone."""
        requests = []
        for job in jobs:
            self._number += 1
            self.inflight[self._number] = job
            self._beside += job.done.beside
            requests.append(wire.Request(self._number, job.done.name, wire.pack(job.args), job.retry, job.until))
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.frame(requests))

    def tell(self, done: Definition, args: tuple[object, ...]) -> None:
        """Have something done that is not answered."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.frame([wire.Request(0, done.name, wire.pack(args), False, inf)]))

    def serving(self) -> tuple[int, float]:
        """Return how many calls are with the sessions, and since when, by the monotonic clock, the oldest is; 0 if none
        is."""
        if not self._beside:
            return len(self.inflight), next((job.sent for job in self.inflight.values()), 0.0)
        sent = [job.sent for job in self.inflight.values() if not job.done.beside]
        return len(sent), min(sent, default=0.0)

    def take_back(self) -> list[Job]:
        """Return what was asked and not answered, the oldest first, and expect no answer to it any more."""
        jobs = list(self.inflight.values())
        self.inflight.clear()
        self._beside = 0
        return jobs

    def stuck(self, since: float) -> int:
        """Return how many calls that were sent before `since` have not come back; of what runs beside the sessions, and
        may take long, those count whose deadline was before `since`."""
        return sum(job.until < since if job.done.beside else job.sent < since for job in self.inflight.values())

    async def end(self, grace: float, *, patient: bool = False) -> None:
        """Let the process finish what it was asked, finalise the module and end, at most `grace` seconds; then kill it.

        patient: what runs beside the sessions, and may take long, has until a moment after its own deadline.
        """
        # What may take long is given the time that its caller gives it.
        until = max(
            (job.until + _PATIENCE_SECONDS for job in self.inflight.values() if job.done.beside and patient),
            default=0.0,
        )
        until = max(until, monotonic() + grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - monotonic()):
                while self.inflight and not self.ended.is_set():  # noqa: ASYNC110 - once in a host's life
                    await asyncio.sleep(0.005)
        if not self.inflight:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(wire.frame([wire.Request(0, Operation.END, wire.pack([]), False, inf)]))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(grace, 1.0), until - monotonic())):
                    await self.ended.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the process now, whatever it is inside of."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            # A process inside the kernel may take its time to die; it answers nobody any more.
            async with asyncio.timeout(_REAP_SECONDS):
                await self.ended.wait()

    def verdict(self) -> str:
        """Say how the process ended, as "was killed by SIGSEGV"."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return "closed its connection"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to the process."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        try:
            replies = [reply for body in self._frames.feed(data) for reply in wire.replies(body)]
        except (ValueError, msgspec.MsgspecError):
            # A module that writes where it should not may make a host say anything.
            if self._transport is not None:
                self._transport.abort()
            return
        answers = []
        for reply in replies:
            if reply.used is not None:
                self.used = reply.used
            job = self.inflight.pop(reply.id, None)
            if job is not None:
                self._beside -= job.done.beside
                answers.append((job, reply))
        self.answered(answers)

    def connection_lost(self, error: Exception | None) -> None:
        """Let the process end, and tell."""
        asyncio.get_running_loop().create_task(self._reap(), name="host-reap")

    async def _reap(self) -> None:
        process = self._process
        if process is not None:
            until = monotonic() + 1.0
            while process.poll() is None:
                if monotonic() > until:
                    process.kill()
                await asyncio.sleep(0.002)
        self.ended.set()
        self._gone(self)


async def ask(host: HostProcess, job: Job, seconds: float) -> Any:
    """Have one thing done by a host that serves nobody else yet. Raises what it says, and KmsdError."""
    host.send([job])
    gone = asyncio.ensure_future(host.ended.wait())
    try:
        await asyncio.wait({job.future, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if job.future.done():
            return job.future.result()
        if gone.done():
            raise crashed(host, [job])
        raise Unavailable(
            f"the PKCS#11 module does not answer ({job.done.name} has taken {seconds:.0f} s)",
            "check the token and the network to it",
        )
    finally:
        gone.cancel()
        job.future.cancel()


_CRASHED: Final = "kmsd starts another one; a module that does this again and again is broken: tell its vendor"


class Crashed(Unavailable):
    """The module took its process with it."""


def crashed(host: HostProcess, doing: Sequence[Job]) -> KmsdError:
    """Return the error of the calls that were inside a process which has ended."""
    inside = ", ".join(sorted({job.done.name for job in doing})) or "nothing"
    return Crashed(f"the PKCS#11 module's process {host.verdict()} (inside: {inside})", _CRASHED)
