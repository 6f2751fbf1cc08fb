"""Streams of kmsd, each followed by a thread of its own and handed to the event loop in batches. Knows no widget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Generic, TypeVar

from kmsd.client import ClientError, Outdated, Unreachable
from kmstui.threads import call_in, in_thread

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient
    from kmsd.client.wire import Stream

COALESCE = 0.5
"""Seconds between two batches: what comes in between is handed over together."""
PACE, PACE_STEPS = 0.03, 64
"""Seconds between two messages that are read, and the messages until that pace is reached: kmsd gathers what happens
meanwhile, and one message costs as much as one call in it would."""
ROOM = 64
"""Messages that may wait for the event loop; kmsd then waits, and counts what it drops."""
RETRY, RETRY_OUTDATED = 1.0, 60.0
"""Seconds until a stream is opened again; longer if this kmsd does not know it."""
SETTLED = 1.0
"""Seconds after which a stream that says nothing counts as open."""

T = TypeVar("T")


class StreamFollower(Generic[T]):
    """A stream, opened anew when it ends, until it is stopped.

    take: called on the loop with the messages that came, and whether they begin a new stream. tell: called on the
    loop with why the stream is not open and when it is tried again (steady clock), or (None, None) once it is.
    """

    def __init__(
        self,
        name: str,
        open_stream: Callable[[AdminClient], Stream[T]],
        take: Callable[[Sequence[T], bool], None],
        tell: Callable[[ClientError | None, float | None], None],
    ) -> None:
        self._name = name
        self._open = open_stream
        self._take = take
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self._reader: _Reader[T] | None = None
        self._waiting: list[T] = []
        self._begins = True
        self._flushed = 0.0
        self._flushing: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._task is not None

    def start(self, client: AdminClient) -> None:
        """Follow the stream with this client, unless it is followed already."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(client), name=self._name)

    def stop(self) -> None:
        """End the stream, and what waits for it."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        self._close_reader()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._waiting.clear()

    async def _follow(self, client: AdminClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            reader = self._reader = _Reader(self._open, client, loop, self._arrived)
            self._begins = True
            settled = loop.call_later(SETTLED, self._tell, None, None)
            error = await in_thread(reader.read)
            settled.cancel()
            self._flush()
            pause = RETRY_OUTDATED if isinstance(error, Outdated) else RETRY
            self._tell(error, monotonic() + pause)
            await asyncio.sleep(pause)

    def _arrived(self, reader: _Reader[T], message: T) -> None:
        if reader is not self._reader:
            return
        self._waiting.append(message)
        if self._flushing is None:
            delay = max(0.0, self._flushed + COALESCE - monotonic())
            self._flushing = asyncio.get_running_loop().call_later(delay, self._flush)

    def _flush(self) -> None:
        self._flushing, self._flushed = None, monotonic()
        messages, self._waiting = self._waiting, []
        if messages and self._reader is not None:
            self._reader.make_room(len(messages))
            begins, self._begins = self._begins, False
            self._take(messages, begins)
            self._tell(None, None)


class _Reader(Generic[T]):
    """The thread's side: one stream, read once."""

    def __init__(
        self,
        open_stream: Callable[[AdminClient], Stream[T]],
        client: AdminClient,
        loop: asyncio.AbstractEventLoop,
        arrived: Callable[[_Reader[T], T], None],
    ) -> None:
        self._open = open_stream
        self._client = client
        self._loop = loop
        self._arrived = arrived
        self._room = threading.Semaphore(ROOM)
        self._lock = threading.Lock()
        self._stream: Stream[T] | None = None
        self._closed = False

    def read(self) -> ClientError:
        """Read until the stream ends. Return why it did."""
        try:
            with self._opened() as stream:
                for number, message in enumerate(stream):
                    if not self._wait_for_room():
                        break
                    call_in(self._loop, self._arrived, self, message)
                    sleep(PACE * min(1.0, number / PACE_STEPS))
        except ClientError as error:
            return error
        except ValueError:  # grpc's word for a channel that was closed
            pass
        return Unreachable("kmsd ended the stream", "", "UNAVAILABLE", retryable=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def make_room(self, messages: int) -> None:
        self._room.release(messages)

    def _opened(self) -> Stream[T]:
        stream = self._open(self._client)
        with self._lock:
            self._stream = stream
            closed = self._closed
        if closed:
            stream.close()
        return stream

    def _wait_for_room(self) -> bool:
        while not self._room.acquire(timeout=1.0):
            if self._closed:
                return False
        return not self._closed
