"""Bound how often a thing may happen before it is only counted. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

BURST: Final = 20
"""Number of events of one kind that are admitted at once."""
REFILL_SECONDS: Final = 60.0
"""Seconds after which one more is admitted."""


class Pace:
    """A bucket of tokens for each kind. The kinds are few, and kmsd's own words."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def admits(self, kind: str) -> bool:
        """Return whether there is a token for one of this kind, and take it."""
        now = self._clock()
        left, since = self._buckets.get(kind, (float(BURST), now))
        left = min(float(BURST), left + (now - since) / REFILL_SECONDS)
        admitted = left >= 1
        self._buckets[kind] = left - admitted, now
        return admitted
