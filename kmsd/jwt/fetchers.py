"""Remember who asks for the published keys, and whether they have seen them as they are now."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MOST: Final = 256
"""Callers that are remembered; of one more, the one that asked longest ago is forgotten."""
_INTERVALS: Final = 3
"""Refresh intervals after which somebody who is silent is gone."""


@dataclass(slots=True)
class Fetcher:
    """A caller who asked. first, last: Unix seconds. ms: time of the set that was answered last."""

    who: str
    first: float
    last: float
    ms: int


class Fetchers:
    """The callers who asked lately. refresh: seconds of the hint that they are given."""

    def __init__(self, refresh: int) -> None:
        self._refresh = refresh
        self._seen: OrderedDict[str, Fetcher] = OrderedDict()

    def fetched(self, who: str, ms: int) -> None:
        """Note that somebody was answered the set of this time."""
        now = time.time()
        found = self._seen.get(who)
        if found is None:
            if len(self._seen) >= _MOST:
                self._seen.popitem(last=False)
            found = self._seen[who] = Fetcher(who, now, now, ms)
        found.last, found.ms = now, ms
        self._seen.move_to_end(who)

    def lately(self) -> Sequence[Fetcher]:
        """Return those who asked within the last intervals, the latest first."""
        since = time.time() - _INTERVALS * self._refresh
        return [each for each in reversed(self._seen.values()) if each.last >= since]
