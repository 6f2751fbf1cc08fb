"""The figures that kmsd's statistics come to: sums over a window, rates between two frames, columns of a sparkline; and
their documents, whose names are a contract with scripts as those of `documents` are. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kmsctl import documents
from kmsctl.output import Document
from kmsctl.text import timestamp
from kmsd.client import Latency, Second, StatsFrame

HISTORY_MAX = 900
"""Seconds that kmsd remembers."""
RATE_SECONDS = 5.0
"""Seconds that a rate of now looks back on."""

Call = tuple[str, str]
"""API and method."""


@dataclass(frozen=True)
class Window:
    """The figures of some seconds of the KMS APIs. Quantiles Some seconds of the KMS APIs in numbers. Quantiles of
    seconds do not add up to one of all calls: typical_p50_ms is that of the second in the middle, by its calls;
    worst_p99_ms that of the worst second. None without calls."""

    seconds: int
    requests: int
    errors: int
    encrypts: int
    decrypts: int
    peak: int
    """Requests in the busiest second."""
    typical_p50_ms: float | None
    worst_p99_ms: float | None
    max_ms: float | None

    @property
    def rate(self) -> float:
        """Return requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


def window(seconds: Sequence[Second]) -> Window:
    """Return the figures of these seconds."""
    busy = [each for each in seconds if each.requests]
    return Window(
        seconds=len(seconds),
        requests=sum(each.requests for each in busy),
        errors=sum(each.errors for each in busy),
        encrypts=sum(each.encrypts for each in busy),
        decrypts=sum(each.decrypts for each in busy),
        peak=max((each.requests for each in busy), default=0),
        typical_p50_ms=_middle(busy),
        worst_p99_ms=max((each.p99_ms for each in busy), default=None),
        max_ms=max((each.max_ms for each in busy), default=None),
    )


def _middle(busy: Sequence[Second]) -> float | None:
    half = sum(each.requests for each in busy) / 2
    seen = 0
    for each in sorted(busy, key=lambda second: second.p50_ms):
        seen += each.requests
        if seen >= half:
            return each.p50_ms
    return None


@dataclass(frozen=True)
class CallTotal:
    """A method of an API since kmsd started, over all codes. latency: None if nothing was timed."""

    api: str
    method: str
    count: int
    errors: int
    latency: Latency | None


def totals(frame: StatsFrame) -> list[CallTotal]:
    """Return the calls by API and method, in the order that kmsd tells them, the admin API last."""
    latencies = {(each.api, each.method): each for each in frame.latencies}
    names = dict.fromkeys([(each.api, each.method) for each in frame.calls])
    names |= dict.fromkeys(latencies)
    return [
        CallTotal(
            api,
            method,
            sum(each.count for each in frame.calls if (each.api, each.method) == (api, method)),
            sum(each.count for each in frame.calls if (each.api, each.method) == (api, method) and each.code != "OK"),
            latencies.get((api, method)),
        )
        for api, method in sorted(names, key=lambda name: name[0] == "admin")
    ]


@dataclass
class FrameHistory:
    """The frames that a live view was shown, as far as it remembers them."""

    keep: int = HISTORY_MAX
    """Seconds."""
    seconds: deque[Second] = field(default_factory=deque)
    _frames: deque[StatsFrame] = field(default_factory=deque)

    @property
    def now(self) -> StatsFrame | None:
        return self._frames[-1] if self._frames else None

    def add(self, frame: StatsFrame) -> None:
        """Remember one more frame."""
        if self._frames and self._frames[-1].started != frame.started:
            self._frames.clear()  # kmsd has counted from nothing again
        self._frames.append(frame)
        while len(self._frames) > 2 and _apart(self._frames[1], frame) >= RATE_SECONDS:
            self._frames.popleft()
        self.seconds.extend(frame.seconds)
        while len(self.seconds) > self.keep:
            self.seconds.popleft()

    def recent(self) -> Window:
        """Return the last few whole seconds."""
        return window(list(self.seconds)[-int(RATE_SECONDS) :])

    def call_rates(self) -> Mapping[Call, float]:
        """Return calls per second by API and method."""
        return self._rates([{(each.api, each.method): each.count for each in totals(frame)} for frame in self._ends()])

    def key_rates(self) -> Mapping[Call, float]:
        """Return uses per second by key id and ""."""
        return self._rates(
            [{(each.key_id, ""): each.encrypts + each.decrypts for each in frame.keys} for frame in self._ends()]
        )

    def _ends(self) -> list[StatsFrame]:
        return [self._frames[0], self._frames[-1]] if self._frames else []

    def _rates(self, counts: Sequence[Mapping[Call, int]]) -> Mapping[Call, float]:
        passed = _apart(self._frames[0], self._frames[-1]) if self._frames else 0.0
        if not passed:
            return {}
        first, last = counts
        return {name: max(0, count - first.get(name, 0)) / passed for name, count in last.items()}


def _apart(first: StatsFrame, last: StatsFrame) -> float:
    if first.time is None or last.time is None:
        return 0.0
    return max(0.0, (last.time - first.time) / timedelta(seconds=1))


def columns(
    values: Sequence[tuple[datetime, float]], number: int, span: int, fold: Callable[[Sequence[float]], float]
) -> list[float]:
    """Return the last `span` seconds as at most `number` columns, each what `fold` makes of its seconds, the last that
    of now.

    Columns begin at whole multiples of their width since the epoch, so that they do not change as time passes.
    """
    if not values or number < 1:
        return []
    step = max(1, -(-span // number))
    last = int(values[-1][0].timestamp()) // step
    sums: dict[int, list[float]] = {}
    for moment, value in values:
        column = int(moment.timestamp()) // step
        if last - column < number:
            sums.setdefault(column, []).append(value)
    first = min(sums)
    return [fold(sums[at]) if at in sums else 0.0 for at in range(first, last + 1)]


def document(frame: StatsFrame) -> Document:
    """Return what `-o json` prints of a frame."""
    return {
        "time": timestamp(frame.time),
        "started_at": timestamp(frame.started),
        "in_flight": frame.in_flight,
        "sessions": documents.of(frame.sessions),
        "seconds": [_second(each) for each in frame.seconds],
        "calls": [
            {"api": each.api, "method": each.method, "code": each.code, "count": each.count} for each in frame.calls
        ],
        "latencies": [{"api": each.api, "method": each.method, **_latency(each)} for each in frame.latencies],
        "operations": [{"operation": each.method, **_latency(each)} for each in frame.operations],
        "keys": [
            {
                "key_id": each.key_id,
                "key_id_sha256": each.key_id_sha256 or None,
                "encrypts": each.encrypts,
                "decrypts": each.decrypts,
                "last_used_at": timestamp(each.last_used),
            }
            for each in frame.keys
        ],
        "quantile_error": frame.quantile_error,
    }


def _second(second: Second) -> Document:
    busy = bool(second.requests)
    return {
        "time": timestamp(second.time),
        "requests": second.requests,
        "errors": second.errors,
        "encrypts": second.encrypts,
        "decrypts": second.decrypts,
        "p50_ms": second.p50_ms if busy else None,
        "p99_ms": second.p99_ms if busy else None,
        "max_ms": second.max_ms if busy else None,
    }


def _latency(latency: Latency) -> Document:
    return {
        "count": latency.count,
        "sum_ms": latency.sum_ms,
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "max_ms": latency.max_ms,
    }


def window_document(window: Window) -> Document:
    """Return what `-o json` prints of a window."""
    return {
        "seconds": window.seconds,
        "requests": window.requests,
        "errors": window.errors,
        "encrypts": window.encrypts,
        "decrypts": window.decrypts,
        "requests_per_second": window.rate,
        "peak_requests_per_second": window.peak,
        "typical_second_p50_ms": window.typical_p50_ms,
        "worst_second_p99_ms": window.worst_p99_ms,
        "max_ms": window.max_ms,
    }
