"""Count durations in logarithmic buckets, in fixed memory. Pure: imports nothing of ours.

Units are seconds going in and milliseconds coming out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Final

QUANTILE_ERROR: Final = 0.05
"""The largest error of a quantile, as a fraction of the exact one (nearest rank), from SHORTEST to LONGEST. The
maximum, the count and the sum are exact."""

SHORTEST: Final = 1e-6
"""Seconds. What took less counts as this long in quantiles."""
LONGEST: Final = 100.0
"""Seconds. What took longer counts as this long in quantiles."""

# Bucket i holds [GROWTH^i, GROWTH^(i+1)) microseconds and stands for 2ab/(a+b) of its bounds, from which both are the
# same fraction away: (GROWTH - 1) / (GROWTH + 1) = 0.048.
_GROWTH: Final = 1.1
_PER_LOG: Final = 1 / log(_GROWTH)
_BUCKETS: Final = ceil(log(LONGEST / SHORTEST) * _PER_LOG)
_MIDDLES: Final = tuple(SHORTEST * _GROWTH**i * 2 * _GROWTH / (1 + _GROWTH) for i in range(_BUCKETS))


_BOUND_FIRST: Final = 28
_BOUND_STEP: Final = 7
BOUNDS: Final = tuple(float(f"{SHORTEST * _GROWTH**i:.3g}") for i in range(_BOUND_FIRST, _BUCKETS, _BOUND_STEP))
"""Seconds up to which `HistogramView` counts: each seventh bound between two buckets, from 14 microseconds to 66
seconds, each 1.95 times the one before, and rounded by less than a twentieth of a bucket."""


@dataclass(frozen=True, slots=True)
class HistogramView:
    """The durations of one kind at one moment. seconds: their sum."""

    counts: array[int]
    seconds: float

    def cumulative(self) -> list[int]:
        """Return how many durations were shorter than each of BOUNDS, and how many there were in all."""
        found, passed, begin = [], 0, 0
        for end in (*range(_BOUND_FIRST, _BUCKETS, _BOUND_STEP), _BUCKETS):
            passed += sum(self.counts[begin:end])
            found.append(passed)
            begin = end
        return found


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency of a method. api: empty for an operation of the token, which `method` names."""

    api: str
    method: str
    count: int
    sum_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class Histogram:
    """The durations of one kind in logarithmic buckets: 1.6 KiB, whatever is added."""

    __slots__ = ("_counts", "_longest", "_sum")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self._sum = 0.0
        self._longest = 0.0

    def add(self, seconds: float, bucket: int) -> None:
        """Count a duration. bucket: `bucket_of(seconds)`, which the caller may need twice."""
        self._counts[bucket] += 1
        self._sum += seconds
        if seconds > self._longest:
            self._longest = seconds

    def view(self) -> HistogramView:
        """Return what was added until now."""
        return HistogramView(self._counts[:], self._sum)

    def latency(self, api: str, method: str) -> Latency:
        """Return the quantiles of what was added."""
        count = sum(self._counts)
        p50, p90, p99 = quantiles(enumerate(self._counts), count, self._longest, (0.5, 0.9, 0.99))
        return Latency(api, method, count, self._sum * 1000, p50, p90, p99, self._longest * 1000)


def bucket_of(seconds: float) -> int:
    """Return the bucket that a duration falls into."""
    if seconds <= SHORTEST:
        return 0
    if seconds >= LONGEST:
        return _BUCKETS - 1
    return int(log(seconds / SHORTEST) * _PER_LOG)


def quantiles(buckets: Iterable[tuple[int, int]], count: int, longest: float, wanted: Sequence[float]) -> list[float]:
    """Return the milliseconds at the nearest rank of each wanted fraction, which ascend. buckets: (bucket, count),
    ascending."""
    found: list[float] = []
    if count == 0:
        return [0.0] * len(wanted)
    passed = 0
    for bucket, here in buckets:
        passed += here
        while len(found) < len(wanted) and passed >= ceil(wanted[len(found)] * count):
            found.append(min(_MIDDLES[bucket], longest) * 1000)
        if len(found) == len(wanted):
            break
    return found
