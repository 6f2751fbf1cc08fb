"""A count of failures: whoever fails too often within a while is not heard before it is over. Pure, bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST: Final = 10
"""Failures of one caller within the while."""
SECONDS: Final = 300.0
_REMEMBERED: Final = 10_000
"""Callers that are remembered. For one more, the one that failed the longest time ago is forgotten."""


class Failures:
    """The failures of callers, each by its address or by the token that it shows. now: monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait(self, *names: str) -> float:
        """Return the seconds for which none of these callers is heard; 0 if all are."""
        now, longest = self._now(), 0.0
        for name in names:
            since, count = self._seen.get(name, (now, 0))
            if count >= MOST:
                longest = max(longest, since + SECONDS - now)
        return longest

    def add(self, *names: str) -> None:
        """Count one more failure of each of these callers."""
        now = self._now()
        for name in names:
            since, count = self._seen.pop(name, (now, 0))
            if now - since >= SECONDS:
                since, count = now, 0
            self._seen[name] = since, count + 1
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
