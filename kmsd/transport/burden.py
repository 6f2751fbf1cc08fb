"""What the requests that are under way weigh, by user and connection, and whose turn it is to wait.

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
"""Bytes that a request weighs besides its message: about what a server spends on it."""
STREAMS: Final = 1000
"""Requests at once of one connection, as its client is told: kube-apiserver decrypts all that it caches when it starts,
over one connection."""
ROOM: Final = 1024 * REQUEST
"""More than the calls of a crowd that waits for a slow token, for Status may come on the same connection."""
_LINGERS: Final = 1.0
"""Seconds for which a request weighs on that its caller takes back: the server has begun with it."""


@dataclass(eq=False, slots=True)
class Carried:
    """The requests of one connection of this user.

    weights: bytes, by the number of the stream. unfinished: when each began of whose message something is missing, the
    oldest first.
    """

    user: Hashable
    weight: int = 0
    weights: dict[int, int] = field(default_factory=dict)
    unfinished: dict[int, float] = field(default_factory=dict)


class Burden:
    """What all connections of one socket carry together. room: bytes."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._weight = 0
        self._users: Counter[Hashable] = Counter()
        """Connections of each that have requests under way."""
        self._lingering: deque[tuple[float, Carried, int]] = deque()

    def must_wait(self, carried: Carried) -> bool:
        """Whether this connection has its share, and there is no room beyond it."""
        if self._weight < self._room or not carried.weight:
            return False
        share = self._room // len(self._users) // self._users[carried.user]
        return carried.weight >= max(REQUEST, share)

    def begin(self, carried: Carried, stream: int) -> None:
        """A request begins on this stream."""
        carried.weights[stream] = 0
        carried.unfinished[stream] = monotonic()
        self.add(carried, stream, REQUEST)

    def add(self, carried: Carried, stream: int, size: int) -> None:
        """So many bytes more are sent on this stream."""
        if stream in carried.weights:
            carried.weights[stream] += size
            self._put(carried, size)

    def end(self, carried: Carried, stream: int, *, lingers: bool = False) -> None:
        """The request on this stream is answered; lingers: its caller takes it back."""
        carried.unfinished.pop(stream, None)
        weight = carried.weights.pop(stream, 0)
        if weight and lingers:
            self._lingering.append((monotonic() + _LINGERS, carried, weight))
        elif weight:
            self._put(carried, -weight)

    def leave(self, carried: Carried) -> None:
        """The connection has ended."""
        for stream in tuple(carried.weights):
            self.end(carried, stream, lingers=True)

    def settle(self) -> None:
        """Forget what has lingered long enough."""
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
