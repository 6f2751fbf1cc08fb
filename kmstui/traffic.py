"""Statistics as they come in, kept as what screens draw: the last 15 minutes, rates over the last seconds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from kmsd.client import ClientError, KeyUse, Second, StatsFrame, escape

K = TypeVar("K")

HISTORY = 900
"""Seconds that kmsd keeps, and that are kept here."""
SPAN = 5.0
"""Seconds over which rates are taken: shorter ones jump, longer ones lag."""


@dataclass(frozen=True)
class KeyUseSpan:
    """The use of one key between two frames. time: of the second one, as seconds since the epoch. span: What one key
    did between two frames. time: of the second one, as seconds since the epoch. span: whole seconds from the first
    one."""

    time: int
    span: int
    encrypts: int
    decrypts: int


@dataclass(frozen=True)
class Traffic:
    """The traffic as far as it is known. seconds: at most HISTORY, oldest first. recent: the frames of the last SPAN
    seconds, the newest last. uses: by key id, since they have been watched. taken: when the newest frame came, on the
    steady clock. error: why none come now; due: when that is tried again, on the steady clock."""

    seconds: tuple[Second, ...] = ()
    recent: tuple[StatsFrame, ...] = ()
    uses: dict[str, tuple[KeyUseSpan, ...]] = field(default_factory=dict)
    watched: int = 0
    """Since when uses are known, as seconds since the epoch."""
    taken: float = 0.0
    error: ClientError | None = None
    due: float | None = None
    tenant: str = ""
    """The tenant whose calls these are; empty: all calls."""

    @property
    def of(self) -> str:
        """The tenant whose calls these are, as the end of a title; empty for all calls."""
        return f" of {escape(self.tenant)}" if self.tenant else ""

    @property
    def frame(self) -> StatsFrame | None:
        return self.recent[-1] if self.recent else None

    @property
    def end(self) -> int:
        """The newest second known, since the epoch; 0 if none is."""
        return stamp(self.seconds[-1].time) if self.seconds else 0


def stamp(time: datetime) -> int:
    """Return a time as whole seconds since the epoch."""
    return int(time.timestamp())


def fold(traffic: Traffic, frame: StatsFrame, taken: float) -> Traffic:
    """Add one more frame."""
    before = traffic.frame
    same = before is not None and before.started == frame.started and _later(before, frame)
    recent = (*traffic.recent, frame) if same else (frame,)
    uses = _uses(traffic.uses, before, frame) if same and before is not None else traffic.uses
    watched = traffic.watched or stamp(frame.time or datetime.now(UTC))
    seconds = _seconds(traffic.seconds, frame.seconds)
    return Traffic(seconds, _recent(recent), uses, watched, taken, tenant=traffic.tenant)


def failed(traffic: Traffic, error: ClientError | None, due: float | None) -> Traffic:
    """Note why the stream is not open."""
    return replace(traffic, error=error, due=due)


def _later(before: StatsFrame, frame: StatsFrame) -> bool:
    return before.time is not None and frame.time is not None and frame.time > before.time


def _seconds(old: Sequence[Second], new: Sequence[Second]) -> tuple[Second, ...]:
    if not new:
        return tuple(old)
    first = new[0].time
    joined = (*(each for each in old if each.time < first), *new)
    oldest = stamp(joined[-1].time) - HISTORY
    return tuple(each for each in joined if stamp(each.time) > oldest)


def _recent(frames: tuple[StatsFrame, ...]) -> tuple[StatsFrame, ...]:
    """Return the frames without those that the rates no longer need: the first one is at least SPAN seconds older than
    the last."""
    last = frames[-1].time
    keep = 0
    for at, frame in enumerate(frames):
        if last is not None and frame.time is not None and (last - frame.time).total_seconds() >= SPAN:
            keep = at
    return frames[keep:]


def _uses(
    old: dict[str, tuple[KeyUseSpan, ...]], before: StatsFrame, frame: StatsFrame
) -> dict[str, tuple[KeyUseSpan, ...]]:
    now = stamp(frame.time or datetime.now(UTC))
    span = max(1, now - stamp(before.time)) if before.time is not None else 1
    earlier = {use.key_id: use for use in before.keys}
    made = dict(old)
    for use in frame.keys:
        last = earlier.get(use.key_id)
        encrypts = use.encrypts - (last.encrypts if last else 0)
        decrypts = use.decrypts - (last.decrypts if last else 0)
        if encrypts or decrypts:
            kept = tuple(each for each in made.get(use.key_id, ()) if each.time > now - HISTORY)
            made[use.key_id] = (*kept, KeyUseSpan(now, span, encrypts, decrypts))
    return made


def elapsed(traffic: Traffic) -> float:
    """Return seconds that the rates are taken over; 0 until there are two frames."""
    if len(traffic.recent) < 2:
        return 0.0
    first, last = traffic.recent[0].time, traffic.recent[-1].time
    return (last - first).total_seconds() if first is not None and last is not None else 0.0


def call_rates(traffic: Traffic) -> dict[tuple[str, str, str], float]:
    """Return the calls per second by API, method and code; empty until there are two frames."""
    return _rates(traffic, lambda frame: {(each.api, each.method, each.code): each.count for each in frame.calls})


def operation_rates(traffic: Traffic) -> dict[str, float]:
    """Return the operations of the token per second."""
    return _rates(traffic, lambda frame: {each.method: each.count for each in frame.operations})


def key_rates(traffic: Traffic) -> dict[str, float]:
    """Return the Encrypts and Decrypts per second by key id."""
    return _rates(traffic, lambda frame: {each.key_id: each.encrypts + each.decrypts for each in frame.keys})


def _rates(traffic: Traffic, counts: Callable[[StatsFrame], dict[K, int]]) -> dict[K, float]:
    span = elapsed(traffic)
    if span <= 0:
        return {}
    first, last = counts(traffic.recent[0]), counts(traffic.recent[-1])
    return {name: max(0, count - first.get(name, 0)) / span for name, count in last.items()}


def now(traffic: Traffic) -> float | None:
    """Return the requests per second over the last whole seconds; None if nothing is known."""
    if not traffic.seconds:
        return None
    last = traffic.end
    seconds = [each for each in traffic.seconds[-3:] if stamp(each.time) > last - 3]
    return sum(each.requests for each in seconds) / len(seconds)


def peak(seconds: Iterable[Second]) -> int:
    """Return the most requests of a second."""
    return max((each.requests for each in seconds), default=0)


def errors(seconds: Iterable[Second]) -> tuple[int, int]:
    """Return (errors, requests)."""
    failed = total = 0
    for each in seconds:
        failed, total = failed + each.errors, total + each.requests
    return failed, total


def lately(traffic: Traffic, seconds: int) -> tuple[Second, ...]:
    """Return the last seconds."""
    return tuple(each for each in traffic.seconds if stamp(each.time) > traffic.end - seconds)


def quantiles(seconds: Iterable[Second]) -> tuple[float, float, float]:
    """Return (p50, p99, maximum) in ms, as far as seconds tell; the histograms themselves stay in kmsd.

    p50: the median of the seconds' medians, each weighed by its requests. p99: that of the worst second.
    """
    busy = [each for each in seconds if each.requests]
    if not busy:
        return 0.0, 0.0, 0.0
    half, seen, median = sum(each.requests for each in busy) / 2, 0, 0.0
    for each in sorted(busy, key=lambda each: each.p50_ms):
        seen, median = seen + each.requests, each.p50_ms
        if seen >= half:
            break
    return median, max(each.p99_ms for each in busy), max(each.max_ms for each in busy)


def use_of(frame: StatsFrame | None, key_id: str) -> KeyUse | None:
    """Return the use of one key."""
    return next((each for each in frame.keys if each.key_id == key_id), None) if frame is not None else None
