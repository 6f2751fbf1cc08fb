"""A bound on how often something may be done. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic


@dataclass(slots=True)
class Bucket:
    """A bucket of calls that may be made at once. It is filled again with time."""

    left: float
    at: float = field(default_factory=monotonic)

    def wait(self, rate: float) -> float:
        """Take one call out of the bucket. Returns 0 if there was one, else the seconds until there is.

        rate: calls in a second that are added.
        """
        now = monotonic()
        self.left = min(max(rate, 1.0), self.left + (now - self.at) * rate)
        self.at = now
        if self.left < 1.0:
            return (1.0 - self.left) / rate
        self.left -= 1.0
        return 0.0
