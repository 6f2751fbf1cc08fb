"""The threads that serve: they read requests, do them on the token, and answer.

One thread leads: it reads. On a token that answers in microseconds it also does what it has read, one after the other,
because handing over to another thread costs more than the operation. On a slow token it passes the lead on before it
begins, so that all sessions are at work. Which of the two a token is is measured with each operation. A leader that has
not come back for a moment loses the lead: one call that hangs keeps no other waiting.

Each thread has a session of its own: `kmsd.hsm.host.seats`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Final

import msgspec

from kmsd.hsm import wire
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.outbox import Outbox
from kmsd.hsm.host.seats import Seat, Seats
from kmsd.hsm.operation import Definition, Operation, definition

_SLOW_SECONDS: Final = 0.0005
"""The duration from which an operation is worth another thread."""
_FORGET: Final = 1.01
"""The factor by which, per operation, the token is believed to have become slower while no short one is seen."""
_BATCH_SECONDS: Final = 0.0005
"""The longest time that an answer waits for others to travel with it."""
_PATIENCE_SECONDS: Final = 0.004
"""The time inside one operation after which a leader loses the lead."""
_LOOK_SECONDS: Final = 0.005
"""The time between two looks at the leader while there is work."""
_READ_BYTES: Final = 262_144


class Workers:
    """The threads that serve: one at first, which serves what needs no session; the login adds the sessions' threads.

    channel: to kmsd. ended: called once, when kmsd is gone or says so.
    """

    def __init__(self, channel: socket.socket, token: OpenToken, ended: Callable[[], None]) -> None:
        self._channel = channel
        self._token = token
        self._outbox = Outbox(channel, lambda: token.used)
        self._ended = ended
        self._frames = wire.Frames()
        self._waiting: deque[wire.Request] = deque()
        self._lead = threading.Lock()
        self._guard = threading.Lock()
        """Held for a moment, around everything below."""
        self._turn = 0
        """Counts how often the lead has changed hands."""
        self._busy_since = 0.0
        """The time since which the leader has been inside an operation; 0 if it is in none."""
        self._seconds = 0.0
        self._stirred = threading.Event()
        self._read_at = 0.0
        # One buffer for all reads: to ask the system for a new one each time costs more than the read.
        self._read_buffer = memoryview(bytearray(_READ_BYTES))
        self._seats = Seats(token)
        self._staffing = threading.Lock()
        self._alone: list[threading.Thread] = []
        self.stopping = False

    def start(self) -> None:
        """Start a thread for each seat that has none."""
        with self._staffing:
            for seat in self._seats.all:
                if seat.thread is None:
                    seat.thread = threading.Thread(target=self._work, args=(seat,), name="hsm-worker", daemon=True)
                    seat.thread.start()

    def watch(self) -> None:
        """Take the lead away from whoever stays inside an operation, until the end. Runs on the main thread."""
        while not self.stopping:
            self._stirred.wait()
            sleep(_LOOK_SECONDS)
            with self._guard:
                now = monotonic()
                since = self._busy_since
                if since and now - since > _PATIENCE_SECONDS:
                    self._busy_since = 0.0
                    self._turn += 1
                    self._seconds = max(self._seconds, now - since)
                    answers = self._outbox.take()
                    self._lead.release()
                elif not since and now - self._read_at > 1.0:
                    self._stirred.clear()
                    continue
                else:
                    continue
            self._outbox.send(answers)

    def stop(self) -> None:
        """Read no more. Called on any thread."""
        self.stopping = True
        self._stirred.set()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RD)

    def wait(self, seconds: float) -> bool:
        """Wait, after `stop`, for the threads to come back. Returns whether none is inside the module any more."""
        until = monotonic() + seconds
        threads = [*(seat.thread for seat in self._seats.all if seat.thread is not None), *self._alone]
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # On the workers' threads.

    def _work(self, seat: Seat) -> None:
        more = True
        while more:
            self._lead.acquire()
            if seat.closed:
                self._lead.release()
                break
            with self._guard:
                self._turn += 1
                turn = self._turn
            try:
                more = self._led(seat, turn)
            except (ValueError, msgspec.MsgspecError):
                # kmsd sends nothing like this: end, so that it starts another host.
                more = False
                self._ended()
        with seat.inside:
            self._seats.close(seat)

    def _led(self, seat: Seat, turn: int) -> bool:
        """Lead until the lead is passed on or lost. Returns whether there may be more to do."""
        oldest = 0.0
        while True:
            if not self._waiting:
                if self._outbox.waiting:
                    self._flush()
                    oldest = 0.0
                if not self._read():
                    self._lead.release()
                    return False
            request = self._waiting.popleft()
            try:
                done = definition(request.operation)
            except (KeyError, ValueError):
                self._outbox.refuse(request.id, wire.Failure("internal", f"operation {request.operation[:40]!r}"))
                continue
            if done.alone or done.changes:
                self._beside(request, done)
                continue
            if done.name is Operation.FORGET_KEYS:
                self._seats.forget(*done.arguments(request.arguments))
                continue
            began = monotonic()
            if request.until < began:
                # It waited behind a call that hung, and its own time is over.
                self._outbox.refuse(request.id, wire.Failure("error", "DeadlineExceeded", "its caller has gone"))
                continue
            passed = self._seconds > _SLOW_SECONDS
            if passed:
                self._flush()
                self._lead.release()
            else:
                self._busy_since = began
            reply, took = self._do(seat, request, done)
            if passed:
                self._seconds = took
                self._outbox.send([reply])
                return True
            with self._guard:
                if self._turn != turn:
                    lost = True
                else:
                    lost = False
                    self._busy_since = 0.0
                    self._seconds = min(took, self._seconds * _FORGET) if self._seconds else took
                    self._outbox.waiting.append(reply)
            if lost:
                self._outbox.send([reply])
                return True
            now = began + took
            oldest = oldest or began
            if now - oldest > _BATCH_SECONDS:
                self._flush()
                oldest = 0.0

    def _read(self) -> bool:
        """Wait for requests. Returns whether there will be more."""
        while not self._waiting:
            if self.stopping:
                return False
            try:
                size = self._channel.recv_into(self._read_buffer)
            except OSError:
                size = 0
            if not size:
                self._ended()
                return False
            self._read_at = monotonic()
            if not self._stirred.is_set():
                self._stirred.set()
            for body in self._frames.feed(self._read_buffer[:size]):
                self._waiting.extend(wire.requests(body))
            if self._waiting and self._waiting[-1].operation == Operation.END:
                self._waiting.pop()
                self.stopping = True
                self._ended()
        return True

    def _flush(self) -> None:
        with self._guard:
            answers = self._outbox.take()
        self._outbox.send(answers)

    def _do(self, seat: Seat, request: wire.Request, done: Definition) -> tuple[wire.Reply, float]:
        """Do one operation; return the answer, and the seconds that it took."""
        began = monotonic()
        seats = self._seats
        lost = False
        value: Any = None
        failure: wire.Failure | None = None
        try:
            arguments = done.arguments(request.arguments)
            with seat.inside, self._token.alone():
                try:
                    value = done.function(seats.session_of(seat), *arguments)
                except CkrError as error:
                    if not (error.stale_session or error.lost):
                        raise
                    if not request.repeat:
                        with contextlib.suppress(CkrError):
                            seats.replace(seat)
                        raise
                    lost = True
                    seats.replace(seat)
                    try:
                        value = done.function(seats.session_of(seat), *arguments)
                    except CkrError as again:
                        lost = again.lost or again.name == "CKR_SESSION_CLOSED"
                        if lost:
                            with contextlib.suppress(CkrError):
                                seats.replace(seat)
                        raise
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            failure = wire.failure(error, lost=lost)
        took = monotonic() - began
        return wire.Reply(request.id, wire.NIL if failure else wire.pack(value), took, failure), took

    # On threads of their own.

    def _beside(self, request: wire.Request, done: Definition) -> None:
        work = self._change if done.changes else self._apart
        thread = threading.Thread(target=work, args=(request, done), name=f"hsm-{done.name}", daemon=True)
        self._alone = [*(each for each in self._alone if each.is_alive()), thread]
        thread.start()

    def _apart(self, request: wire.Request, done: Definition) -> None:
        def work() -> Any:
            of = self._seats if done.name is Operation.SET_SESSIONS else self._token
            value = done.function(of, *done.arguments(request.arguments))
            if done.name is Operation.LOG_IN:
                self._seats.begin()
            self.start()
            return value

        self._answer_with(request, work)

    def _change(self, request: wire.Request, done: Definition) -> None:
        def work() -> Any:
            arguments = done.arguments(request.arguments)
            with self._seats.writable() as session, self._token.alone():
                return done.function(session, *arguments)

        self._answer_with(request, work)

    def _answer_with(self, request: wire.Request, work: Callable[[], Any]) -> None:
        began = monotonic()
        try:
            value = wire.pack(work())
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            lost = isinstance(error, CkrError) and error.lost
            reply = wire.Reply(request.id, wire.NIL, monotonic() - began, wire.failure(error, lost=lost))
        else:
            reply = wire.Reply(request.id, value, monotonic() - began)
        self._outbox.send([reply])
