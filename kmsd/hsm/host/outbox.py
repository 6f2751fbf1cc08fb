"""The answers on their way to kmsd: put together while the leader is quick, and sent by whichever thread has them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Collection

from kmsd.hsm import wire


class Outbox:
    """The answers that are not sent yet. channel: to kmsd. used: gives the keys that the login has used.

    waiting: answers that are not sent yet; guarded by whoever leads.
    """

    def __init__(self, channel: socket.socket, used: Callable[[], Collection[tuple[bytes, str]]]) -> None:
        self.waiting: list[wire.Reply] = []
        self._channel = channel
        self._used = used
        self._told = 0
        self._sending = threading.Lock()

    def take(self) -> list[wire.Reply]:
        """Return what waits, for `send`."""
        answers, self.waiting = self.waiting, []
        return answers

    def send(self, answers: list[wire.Reply]) -> None:
        """Send answers in one write, and with them what the login has used, if that is news. On any thread."""
        if not answers:
            return
        used = self._used()
        if len(used) != self._told:
            self._told = len(used)
            answers[-1].used = tuple(used)
        # OSError: kmsd is gone, and nobody waits for this any more.
        with self._sending, contextlib.suppress(OSError):
            self._channel.sendall(wire.frame(answers))

    def refuse(self, number: int, failure: wire.Failure) -> None:
        """Answer a request that is not done."""
        self.send([wire.Reply(number, wire.NIL, 0.0, failure)])
