"""The threads that serve: they read requests, do them on the token, and answer.

One thread leads: it reads. On a token that answers in microseconds it also does what it has read, one after the other,
because handing over to another thread costs more than the operation. On a slow token it passes the lead on before it
begins, so that all sessions are at work. Which of the two a token is is measured with each operation. A leader that has
not come back for a moment loses the lead: one call that hangs keeps no other waiting.

A session does one operation at a time (PKCS#11 3.0, 2.6), so each thread has its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final

import msgspec

from kmsd.hsm import wire
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.outbox import Outbox
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.operation import Definition, Operation, definition

_SLOW_SECONDS: Final = 0.0005
"""The duration from which an operation is worth another thread."""
_FORGET: Final = 1.01
"""The factor by which, per operation, the token is believed to have become slower while no short one is seen."""
_BATCH_SECONDS: Final = 0.0005
"""Answers travel together, but none waits longer for the others."""
_PATIENCE_SECONDS: Final = 0.004
"""After so long inside one operation a leader loses the lead."""
_LOOK_SECONDS: Final = 0.005
"""Between two looks at the leader while there is work."""
_READ_BYTES: Final = 262_144
_NO_SESSION: Final = "CKR_SESSION_COUNT"


class _Worker:
    """A thread that serves. inside: held while it is at work with its session, or somebody else has taken that."""

    __slots__ = ("inside", "session", "thread")

    def __init__(self, session: TokenSession | None) -> None:
        self.session = session
        self.inside = threading.Lock()
        self.thread: threading.Thread | None = None


class Workers:
    """The threads that serve: one at first, which serves what needs no session; `serve` adds the sessions' threads.

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
        """Since when the leader has been inside an operation; 0 if it is not."""
        self._seconds = 0.0
        self._stirred = threading.Event()
        self._read_at = 0.0
        self._workers: list[_Worker] = []
        self._alone: list[threading.Thread] = []
        self.stopping = False

    def start(self) -> None:
        """Start the first thread."""
        self._add(None)

    def serve(self, sessions: list[TokenSession]) -> None:
        """Give the first thread its session, and start the others."""
        self._workers[0].session = sessions[0]
        for session in sessions[1:]:
            self._add(session)

    def _add(self, session: TokenSession | None) -> None:
        worker = _Worker(session)
        worker.thread = threading.Thread(target=self._work, args=(worker,), name="hsm-worker", daemon=True)
        self._workers.append(worker)
        worker.thread.start()

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
        threads = [*(worker.thread for worker in self._workers if worker.thread is not None), *self._alone]
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # On the workers' threads.

    def _work(self, worker: _Worker) -> None:
        more = True
        while more:
            self._lead.acquire()
            with self._guard:
                self._turn += 1
                turn = self._turn
            try:
                more = self._led(worker, turn)
            except (ValueError, msgspec.MsgspecError):
                # kmsd sends nothing like this: end, so that it starts another host.
                more = False
                self._ended()
        if worker.session is not None and worker.session is not self._token.only:
            with contextlib.suppress(CkrError):
                worker.session.close()
            worker.session = None

    def _led(self, worker: _Worker, turn: int) -> bool:
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
                self._forget(done.arguments(request.arguments)[0])
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
            reply, took = self._do(worker, request, done)
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
                data = self._channel.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._ended()
                return False
            self._read_at = monotonic()
            if not self._stirred.is_set():
                self._stirred.set()
            for body in self._frames.feed(data):
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

    def _forget(self, gone: frozenset[bytes]) -> None:
        for each in self._workers:
            # A single operation on a dict, atomic under the interpreter lock; a look-up in flight just repeats itself.
            if each.session is not None:
                each.session.forget(gone)

    def _do(self, worker: _Worker, request: wire.Request, done: Definition) -> tuple[wire.Reply, float]:
        """Do one operation; return the answer, and the seconds that it took."""
        began = monotonic()
        lost = False
        value: Any = None
        failure: wire.Failure | None = None
        try:
            arguments = done.arguments(request.arguments)
            with worker.inside, self._token.alone():
                try:
                    value = done.function(self._session_of(worker), *arguments)
                except CkrError as error:
                    if not (error.stale_session or error.lost):
                        raise
                    if not request.repeat:
                        with contextlib.suppress(CkrError):
                            self._replace(worker)
                        raise
                    lost = True
                    self._replace(worker)
                    try:
                        value = done.function(self._session_of(worker), *arguments)
                    except CkrError as again:
                        lost = again.lost or again.name == "CKR_SESSION_CLOSED"
                        if lost:
                            with contextlib.suppress(CkrError):
                                self._replace(worker)
                        raise
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            failure = wire.failure(error, lost=lost)
        took = monotonic() - began
        return wire.Reply(request.id, wire.NIL if failure else wire.pack(value), took, failure), took

    def _session_of(self, worker: _Worker) -> TokenSession:
        if worker.session is None:
            worker.session = self._token.session()
        return worker.session

    def _replace(self, worker: _Worker) -> None:
        """Open a new session for a worker: after a failed operation the old one may be left in the middle of it."""
        session = worker.session
        if session is None or session is self._token.only:
            # The only session holds the login: kmsd has to start another host.
            return
        worker.session = None
        with contextlib.suppress(CkrError):
            session.close()
        worker.session = self._token.session()

    # On threads of their own.

    def _beside(self, request: wire.Request, done: Definition) -> None:
        work = self._change if done.changes else self._apart
        thread = threading.Thread(target=work, args=(request, done), name=f"hsm-{done.name}", daemon=True)
        self._alone = [*(each for each in self._alone if each.is_alive()), thread]
        thread.start()

    def _apart(self, request: wire.Request, done: Definition) -> None:
        def work() -> Any:
            value = done.function(self._token, *done.arguments(request.arguments))
            if done.name is Operation.LOG_IN:
                self.serve(self._token.sessions)
            return value

        self._answer_with(request, work)

    def _change(self, request: wire.Request, done: Definition) -> None:
        def work() -> Any:
            arguments = done.arguments(request.arguments)
            with self._writable() as session, self._token.alone():
                return done.function(session, *arguments)

        self._answer_with(request, work)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[TokenSession]:
        """Open a read-write session. On a token with few sessions a worker gives up its own for as long. Raises
        CkrError."""
        if self._token.only is not None:
            with self._workers[0].inside:
                yield self._token.only
            return
        with contextlib.ExitStack() as stack:
            try:
                session = self._token.session(rw=True)
            except CkrError as error:
                if error.name != _NO_SESSION:
                    raise
                worker = self._workers[-1]
                stack.enter_context(worker.inside)
                if worker.session is not None:
                    worker.session.close()
                    worker.session = None
                session = self._token.session(rw=True)
            stack.callback(_close, session)
            yield session

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


def _close(session: TokenSession) -> None:
    with contextlib.suppress(CkrError):
        session.close()
