"""A feed: the last few of what has happened, and the rest as it happens, for whoever watches.

Knows nothing of what it carries. Belongs to one event loop; a slow subscriber loses items, never the publisher time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

T = TypeVar("T")

QUEUE: Final = 2000
"""Items that wait for a subscriber; when one more comes, the oldest is dropped."""
BATCH: Final = 250
"""Items handed over at once, so that a batch fits into a message."""
GATHER: Final = 0.03
"""Seconds between two batches, at the least, while they are not full: what comes thick and fast travels together, for a
message costs its sender and its reader more than what is in it, and nobody sees more than thirty changes a second. What
comes after a rest is handed over at once."""


class Feed(Generic[T]):
    """A feed of items. keep: items that `last` can tell of. queue, batch, gather: per subscriber, as QUEUE, BATCH and
    GATHER."""

    def __init__(self, keep: int, *, queue: int = QUEUE, batch: int = BATCH, gather: float = GATHER) -> None:
        self._kept: deque[T] = deque(maxlen=keep)
        self._queue = queue
        self._batch = batch
        self._gather = gather
        self._subscribers: list[Subscription[T]] = []
        self._closed = False

    def publish(self, item: T) -> None:
        """Keep an item, and hand it to every subscriber. Cheap, above all while there is none."""
        self._kept.append(item)
        for subscriber in self._subscribers:
            subscriber._put(item)

    def last(self, n: int) -> list[T]:
        """Return the last n items that are kept, oldest first."""
        return list(islice(self._kept, max(0, len(self._kept) - max(0, n)), None))

    def subscribe(self, backlog: int = 0, wanted: Callable[[T], bool] | None = None) -> Subscription[T]:
        """Return a subscription: the last `backlog` kept items, then what comes. wanted: picks items; what is not
        wanted takes no place in the queue.

        async with feed.subscribe(100) as batches:
            async for items, dropped in batches: ...
        """
        return Subscription(self, backlog, self._queue, self._batch, self._gather, wanted)

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    def close(self) -> None:
        """Let every subscriber come to its end, once it has been handed what waits for it."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber._wake.set()


class Subscription(Generic[T]):
    """An async context manager, and within it an async iterator of (items, dropped).

    items: what has gathered, oldest first, never empty. dropped: how many items were lost just before these, because
    they were fetched too slowly.
    """

    def __init__(
        self,
        feed: Feed[T],
        backlog: int,
        queue: int,
        batch: int,
        gather: float,
        wanted: Callable[[T], bool] | None,
    ) -> None:
        self._feed = feed
        self._wanted = wanted
        self._backlog = backlog
        self._batch = batch
        self._gather = gather
        self._handed = 0.0
        self._waiting: deque[T] = deque(maxlen=queue)
        self._dropped = 0
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        for item in self._feed.last(self._backlog):
            self._put(item)
        # What the queue could not hold of the past was never promised.
        self._dropped = 0
        self._feed._subscribers.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._feed._subscribers.remove(self)
        self._waiting.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[list[T], int]:
        while not self._waiting:
            if self._feed._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        rest = self._handed + self._gather - monotonic()
        if rest > 0 and len(self._waiting) < self._batch and not self._feed._closed:
            await asyncio.sleep(rest)
        self._handed = monotonic()
        items = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        dropped, self._dropped = self._dropped, 0
        return items, dropped

    def _put(self, item: T) -> None:
        if self._wanted is not None and not self._wanted(item):
            return
        if len(self._waiting) == self._waiting.maxlen:
            self._dropped += 1
        self._waiting.append(item)
        if not self._wake.is_set():
            self._wake.set()
