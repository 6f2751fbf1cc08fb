"""Weigh the requests that are under way, by user and connection, and decide whose turn it is to wait.

While there is room, everybody has as much of it as he wants. When it is full, who has more than his share of it sends
nothing more until some of his requests are answered: users have equal shares, and so have the connections of one user.
A client that asks for little is never kept waiting by one that asks for much. Knows no socket.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

REQUEST: Final = 16 * 1024
"""Bytes that a request weighs besides its message: about as many as a server spends on it."""
STREAMS: Final = 1000
"""Requests that one connection may have under way at once, as its client is told. They are many because kube-apiserver,
when it starts, decrypts all that it caches over one connection."""
ROOM: Final = 1024 * REQUEST
"""Bytes that all connections of a socket may weigh together. It is more than the calls of a crowd that waits for a slow
token, for Status may come on the same connection."""
_LINGERS: Final = 1.0
"""Seconds for which a request that its caller takes back still weighs, because the server has begun with it."""


@dataclass(eq=False, slots=True)
class Carried:
    """The requests of one connection of this user.

    user: whom the connection counts for. weight: bytes of all its requests. weights: bytes of each request, by the
    number of its stream. unfinished: the requests whose message is not whole yet, oldest first, with the monotonic time
    at which each began.
    """

    user: Hashable
    weight: int = 0
    weights: dict[int, int] = field(default_factory=dict)
    unfinished: dict[int, float] = field(default_factory=dict)


class Burden:
    """The weight of all that the connections of one socket carry together. room: bytes of it that are allowed."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._weight = 0
        self._users: Counter[Hashable] = Counter()
        """Number of each user's connections that have requests under way."""
        self._lingering: deque[tuple[float, Carried, int]] = deque()

    def must_wait(self, carried: Carried) -> bool:
        """Return whether this connection has its share, and there is no room beyond it."""
        if self._weight < self._room or not carried.weight:
            return False
        share = self._room // len(self._users) // self._users[carried.user]
        return carried.weight >= max(REQUEST, share)

    def begin(self, carried: Carried, stream: int) -> None:
        """Count a request that begins on this stream."""
        carried.weights[stream] = 0
        carried.unfinished[stream] = monotonic()
        self.add(carried, stream, REQUEST)

    def add(self, carried: Carried, stream: int, size: int) -> None:
        """Add `size` bytes that are sent on this stream."""
        if stream in carried.weights:
            carried.weights[stream] += size
            self._put(carried, size)

    def end(self, carried: Carried, stream: int, *, lingers: bool = False) -> None:
        """End the request on this stream.

        lingers: its caller has taken it back, so it weighs on for a while; else it has been answered.
        """
        carried.unfinished.pop(stream, None)
        weight = carried.weights.pop(stream, 0)
        if weight and lingers:
            self._lingering.append((monotonic() + _LINGERS, carried, weight))
        elif weight:
            self._put(carried, -weight)

    def leave(self, carried: Carried) -> None:
        """End all requests of a connection that has ended; they weigh on for a while."""
        for stream in tuple(carried.weights):
            self.end(carried, stream, lingers=True)

    def settle(self) -> None:
        """Forget the requests that have weighed on for long enough."""
        now = monotonic()
        while self._lingering and self._lingering[0][0] <= now:
            _, carried, weight = self._lingering.popleft()
            self._put(carried, -weight)

    def _put(self, carried: Carried, weight: int) -> None:
        had = carried.weight
        carried.weight += weight
        self._weight += weight
        self._users[carried.user] += bool(carried.weight) - bool(had)
        if not self._users[carried.user]:
            del self._users[carried.user]
