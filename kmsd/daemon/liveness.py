"""End the process, with a reason, when only a restart can help; feed systemd's watchdog until then.

What waits only costs patience: a token that is away comes back, a call that never returns from the module hangs in a
process of its own, and a restart would take the sockets away that say so. What nothing but a new process brings back is
a socket that cannot be made again or does not answer, and an event loop that does not turn.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from kmsd.observe import logs
from kmsd.observe.sdnotify import notify, watchdog_seconds

log = logs.get_logger("kmsd")

_TURN: Final = 1.0
"""Seconds between two looks, and between two signs that the loop turns."""
_ASK: Final = 15.0
"""Seconds between two times that the sockets are asked, where no watchdog wants it sooner."""
_PATIENCE: Final = 5.0
"""Seconds for an answer of a socket."""
_LAST_WORDS: Final = 1.0
"""Seconds for the log line of a process whose event loop stands still: the log itself may be what it waits for."""


class LivenessWatch(Protocol):
    """The watch over one socket. problem: why the socket is not in its place. lost: for how many seconds it could not
    be put there."""

    @property
    def problem(self) -> Exception | None: ...

    def lost(self) -> float:
        """Return the seconds for which the socket could not be put in its place; 0 while it is there."""


class Liveness:
    """The judge of whether only a restart can help. sockets: each with its path. patience: seconds after which only a
    restart can help, `health.give_up_after`; 0: never. answers: asks a socket as a client would. end: is told the
    reason, once.

    verdict: that reason; empty while kmsd is alive.
    """

    def __init__(
        self,
        sockets: Sequence[tuple[Path, LivenessWatch]],
        patience: float,
        answers: Callable[[Path, float], Awaitable[bool]],
        end: Callable[[str], None],
    ) -> None:
        self.verdict = ""
        self._sockets = sockets
        self._patience = patience
        self._answers = answers
        self._end = end
        self._silent: dict[Path, float] = {}

    async def run(self) -> None:
        """Look for ever, or until it is time to end."""
        if not self._patience:
            return
        turn = min(_TURN, self._patience / 4)
        LoopWatch(self._patience, turn).watch(asyncio.get_running_loop())
        while not self.verdict:
            await asyncio.sleep(turn)
            self.verdict = self._reason()
        self._end(self.verdict)

    async def feed(self) -> None:
        """Ask the sockets for ever; feed systemd's watchdog when the loop turns and they answer."""
        wanted = watchdog_seconds()
        pause = min(_ASK, wanted / 2) if wanted else _ASK
        while True:
            began = monotonic()
            await asyncio.gather(*(self._ask(path, watch, min(_PATIENCE, pause)) for path, watch in self._sockets))
            if wanted and not self._silent:
                notify(WATCHDOG="1")
            await asyncio.sleep(max(0.0, pause - (monotonic() - began)))

    async def _ask(self, path: Path, watch: LivenessWatch, timeout: float) -> None:
        # A socket that is not in its place has a clock of its own, and what stands there may be another server.
        if watch.problem is not None or await self._answers(path, timeout):
            self._silent.pop(path, None)
        else:
            self._silent.setdefault(path, monotonic())

    def _reason(self) -> str:
        now = monotonic()
        for path, watch in self._sockets:
            if watch.lost() > self._patience:
                return f"{path} could not be made again for {watch.lost():.0f} s: {watch.problem}"
            if path in self._silent and now - self._silent[path] > self._patience:
                return f"{path} has not answered for {now - self._silent[path]:.0f} s"
        return ""


class LoopWatch(threading.Thread):
    """A thread that ends the process when the event loop has not turned for so long, for then nothing else can.

    patience, turn: seconds. Counts its own turns and not the clock, so that a process which was stopped, or a machine
    that slept, is not taken for one that hangs.
    """

    def __init__(self, patience: float, turn: float) -> None:
        super().__init__(name="kmsd-loop-watch", daemon=True)
        self._turns = 0
        self._patience = patience
        self._turn = turn

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, and go on as long as the loop does, whatever runs on it."""
        self._turned(loop)
        self.start()

    def _turned(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turns += 1
        loop.call_later(self._turn, self._turned, loop)

    def run(self) -> None:
        """Watch until the event loop has stood still for too long, then end the process."""
        seen, still = self._turns, 0.0
        while still <= self._patience:
            time.sleep(self._turn)
            still = still + self._turn if self._turns == seen else 0.0
            seen = self._turns
        words = threading.Thread(target=self._tell, args=(still,), daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        os._exit(1)

    @staticmethod
    def _tell(still: float) -> None:
        reason = f"the event loop has not turned for {still:.0f} s"
        notify(STATUS=f"gives up: {reason}")
        log.error("kmsd gives up: only a restart can help", reason=reason)
