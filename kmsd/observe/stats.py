"""Count in fixed memory: calls, latencies, the last 15 minutes by second, operations of the token, keys.

Pure: imports nothing of ours but `histogram`, writes nowhere, knows no event loop. Units are seconds going in and
milliseconds coming out, and the fields of a frame are called as in `WatchStatsResponse` (kmsd.admin.v1). Everything
belongs to one thread, the event loop's.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from kmsd.observe.histogram import QUANTILE_ERROR, Histogram, HistogramView, Latency, bucket_of, quantiles

HISTORY: Final = 900
"""Seconds that are kept one by one."""
CLOCK_JITTER: Final = 5
"""Seconds that the clock may be set back without a break: meanwhile calls count in the second that was reached.
Set back further, the seconds that lie ahead are forgotten, as no order could tell them from those to come."""

MAX_KEYS: Final = 10_000
"""Keys whose use is kept; the one used least recently goes first."""
FRAME_KEYS: Final = 500
"""Keys in a frame, those used last: a frame has to fit into a message."""

KUBERNETES_APIS: Final = frozenset({"v2", "v1beta1", "jwt"})
"""The APIs whose calls the seconds count, which Kubernetes calls; the admin API's calls are no load."""


@dataclass(frozen=True, slots=True)
class Second:
    """A second of the APIs that Kubernetes calls. unix_s: its beginning. Every ended call is a request, Status and
    Version included; errors, encrypts and decrypts are among them. Latencies are 0 if there were no requests."""

    unix_s: int
    requests: int = 0
    errors: int = 0
    encrypts: int = 0
    decrypts: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Calls:
    """The number of calls that ended alike. code: canonical status name, "OK" included."""

    api: str
    method: str
    code: str
    count: int


@dataclass(frozen=True, slots=True)
class KeyUse:
    """The uses of a key since kmsd started, but for last_used: Unix seconds, 0 if none is known. key_id_sha256: lower
    hex."""

    key_id: str
    key_id_sha256: str
    encrypts: int
    decrypts: int
    last_used: float

    @property
    def last_used_unix_ms(self) -> int:
        return int(self.last_used * 1000)


@dataclass(frozen=True, slots=True)
class Frame:
    """The statistics at one moment. seconds: whole ones, oldest first, none missing. All else counts since kmsd
    started. keys: the FRAME_KEYS used last, the latest first."""

    unix_ms: int
    seconds: tuple[Second, ...]
    calls: tuple[Calls, ...]
    latencies: tuple[Latency, ...]
    operations: tuple[Latency, ...]
    keys: tuple[KeyUse, ...]
    in_flight: int
    started_unix_ms: int
    quantile_error: float = QUANTILE_ERROR


@dataclass(frozen=True, slots=True)
class Counted:
    """The numbers of all that was counted since kmsd started, for metrics. durations: of each API and method.
    operations: of the tokens, each with its name."""

    calls: tuple[Calls, ...]
    durations: tuple[tuple[str, str, HistogramView], ...]
    operations: tuple[tuple[str, HistogramView], ...]


@dataclass(frozen=True, slots=True)
class Lately:
    """The calls of the KMS APIs in a few seconds: how many in one, and the p99 of the worst. requests, errors: since
    kmsd started."""

    requests_per_second: float
    p99_ms: float
    requests: int
    errors: int


class Stats:
    """The counters of one kmsd, or of one tenant. now: Unix seconds; may be set back and forward. history: seconds that
    are kept one by one.

    Which APIs, methods, codes and operations there are is kmsd's own to say, never a caller's: their number is bounded
    by the tables of methods.
    """

    def __init__(self, now: Callable[[], float] = time.time, *, history: int = HISTORY) -> None:
        self._now = now
        self._started = now()
        self._methods: dict[tuple[str, str], _Method] = {}
        self._seconds = _Seconds(int(self._started), history)
        self._operations: dict[str, Histogram] = {}
        self._keys: OrderedDict[str, _Use] = OrderedDict()
        self._forgotten_encrypts = 0
        self._forgotten_decrypts = 0
        self.in_flight = 0
        """Calls that have begun and not ended."""

    def began(self) -> None:
        """Count a call that has come in."""
        self.in_flight += 1

    def ended(self) -> None:
        """Count a call that has been answered, or given up."""
        self.in_flight -= 1

    def record(self, api: str, method: str, code: str, seconds: float) -> None:
        """Count one ended call. code: canonical status name; anything but "OK" is an error. seconds: it took."""
        counted = self._methods.get((api, method))
        if counted is None:
            counted = self._methods[api, method] = _Method(api in KUBERNETES_APIS)
        counted.codes[code] = counted.codes.get(code, 0) + 1
        bucket = bucket_of(seconds)
        counted.latency.add(seconds, bucket)
        if counted.load:
            self._seconds.add(int(self._now()), method, code, seconds, bucket)

    def operation(self, name: str, seconds: float) -> None:
        """Count one operation of the token, as "encrypt"."""
        histogram = self._operations.get(name)
        if histogram is None:
            histogram = self._operations[name] = Histogram()
        histogram.add(seconds, bucket_of(seconds))

    def used(self, key_id: str, op: Literal["encrypt", "decrypt"]) -> None:
        """Count a call that a key has served."""
        use = self._keys.get(key_id)
        if use is None:
            use = self._keys[key_id] = _Use(key_id)
            self._forget()
        else:
            self._keys.move_to_end(key_id)
        if op == "encrypt":
            use.encrypts += 1
        else:
            use.decrypts += 1
        use.last_used = self._now()

    def load_last_used(self, known: Mapping[str, float]) -> None:
        """Take over last uses from before a restart: key_id to Unix seconds. Counts nothing; what is newer here stays.
        A time that is still to come becomes the present."""
        now = self._now()
        for key_id, when in sorted(known.items(), key=lambda item: item[1], reverse=True):
            use = self._keys.get(key_id)
            if not when > 0 or (use is None and len(self._keys) >= MAX_KEYS):
                continue
            if use is None:
                use = self._keys[key_id] = _Use(key_id)
                # Newest first, each to the front: so the oldest is there in the end, and the first to go.
                self._keys.move_to_end(key_id, last=False)
            use.last_used = max(use.last_used, min(when, now))

    @property
    def started(self) -> float:
        """The time (Unix seconds) at which counting began."""
        return self._started

    def key_counts(self) -> dict[str, tuple[int, int]]:
        """Return the encrypts and decrypts of every key that is kept, by key id."""
        return {key_id: (use.encrypts, use.decrypts) for key_id, use in self._keys.items()}

    def key_use(self, key_id: str) -> KeyUse:
        """Return the uses of one key; zeros if nothing is known of it."""
        return (self._keys.get(key_id) or _Use(key_id)).view()

    def uses(self) -> list[KeyUse]:
        """Return the uses of every key that is kept, the one used last first."""
        return [use.view() for use in reversed(self._keys.values())]

    @property
    def forgotten(self) -> KeyUse:
        """The uses of all keys that are no longer kept, in one sum without a key id."""
        return KeyUse("", "", self._forgotten_encrypts, self._forgotten_decrypts, 0.0)

    def frame(self, since: int | None, now: float | None = None) -> Frame:
        """Return all statistics at once.

        since: `unix_s` of the last second that is known already, so that only later ones are told; None: all there are,
        at most `history`, from the start of kmsd on. A `since` that lies ahead means that the clock was set back: all.
        now: Unix seconds; the clock's if None.
        """
        now = self._now() if now is None else now
        return Frame(
            unix_ms=int(now * 1000),
            seconds=self._seconds.whole(int(now), since),
            calls=self._calls(),
            latencies=tuple(counted.latency.latency(api, method) for (api, method), counted in self._methods.items()),
            operations=tuple(histogram.latency("", name) for name, histogram in sorted(self._operations.items())),
            keys=tuple(use.view() for use, _ in zip(reversed(self._keys.values()), range(FRAME_KEYS), strict=False)),
            in_flight=self.in_flight,
            started_unix_ms=int(self._started * 1000),
        )

    def counted(self) -> Counted:
        """Return all that was counted, without the seconds and the keys."""
        return Counted(
            self._calls(),
            tuple((api, method, counted.latency.view()) for (api, method), counted in self._methods.items()),
            tuple((name, histogram.view()) for name, histogram in self._operations.items()),
        )

    def _calls(self) -> tuple[Calls, ...]:
        return tuple(
            Calls(api, method, code, count)
            for (api, method), counted in self._methods.items()
            for code, count in counted.codes.items()
        )

    def lately(self, seconds: int) -> Lately:
        """Return the calls of Kubernetes in the last whole seconds, so many of them, and since kmsd started."""
        now = int(self._now())
        last = self._seconds.whole(now, now - seconds - 1)
        load = [counted for counted in self._methods.values() if counted.load]
        requests = sum(sum(counted.codes.values()) for counted in load)
        return Lately(
            requests_per_second=sum(each.requests for each in last) / seconds,
            p99_ms=max((each.p99_ms for each in last), default=0.0),
            requests=requests,
            errors=requests - sum(counted.codes.get("OK", 0) for counted in load),
        )

    def _forget(self) -> None:
        if len(self._keys) > MAX_KEYS:
            _, gone = self._keys.popitem(last=False)
            self._forgotten_encrypts += gone.encrypts
            self._forgotten_decrypts += gone.decrypts


class _Method:
    __slots__ = ("codes", "latency", "load")

    def __init__(self, load: bool) -> None:
        self.codes: dict[str, int] = {}
        self.latency = Histogram()
        self.load = load


class _Use:
    __slots__ = ("decrypts", "encrypts", "key_id", "last_used", "sha256")

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.sha256 = sha256(key_id.encode()).hexdigest() if key_id else ""
        self.encrypts = 0
        self.decrypts = 0
        self.last_used = 0.0

    def view(self) -> KeyUse:
        return KeyUse(self.key_id, self.sha256, self.encrypts, self.decrypts, self.last_used)


class _OpenSecond:
    """The second that is not over. Its histogram holds only the buckets that were hit, and is gone when it is over."""

    __slots__ = ("buckets", "decrypts", "encrypts", "errors", "longest", "requests", "unix_s")

    def __init__(self, unix_s: int) -> None:
        self.unix_s = unix_s
        self.requests = 0
        self.errors = 0
        self.encrypts = 0
        self.decrypts = 0
        self.longest = 0.0
        self.buckets: dict[int, int] = {}

    def closed(self) -> Second:
        p50, p99 = quantiles(sorted(self.buckets.items()), self.requests, self.longest, (0.5, 0.99))
        return Second(
            self.unix_s, self.requests, self.errors, self.encrypts, self.decrypts, p50, p99, self.longest * 1000
        )


class _Seconds:
    """The last seconds, so many as `history`. Only those with calls are kept (about 200 bytes each); the others are
    filled in when somebody asks, so that the first call after an idle night pays nothing for it."""

    def __init__(self, first: int, history: int) -> None:
        self._first = first
        self._history = history
        self._past: deque[Second] = deque(maxlen=history)
        self._open = _OpenSecond(first)

    def add(self, second: int, method: str, code: str, seconds: float, bucket: int) -> None:
        here = self._open
        if second != here.unix_s:
            here = self._turn(second)
        here.requests += 1
        if code != "OK":
            here.errors += 1
        if method == "Encrypt":
            here.encrypts += 1
        elif method == "Decrypt":
            here.decrypts += 1
        here.buckets[bucket] = here.buckets.get(bucket, 0) + 1
        if seconds > here.longest:
            here.longest = seconds

    def whole(self, now: int, since: int | None) -> tuple[Second, ...]:
        """Return the seconds after `since` that are over, oldest first, none missing."""
        end = self._turn(now).unix_s
        begin = max(self._first, end - self._history)
        if since is not None and since < end:
            begin = max(begin, since + 1)
        known: dict[int, Second] = {}
        for second in reversed(self._past):
            if second.unix_s < begin:
                break
            known[second.unix_s] = second
        return tuple(known.get(unix_s) or Second(unix_s) for unix_s in range(begin, end))

    def _turn(self, second: int) -> _OpenSecond:
        """Return the second to count in, when the clock shows `second`."""
        last = self._open
        if 0 <= last.unix_s - second <= CLOCK_JITTER:
            return last
        if second < last.unix_s:
            self._past.clear()
            self._first = second
        elif last.requests:
            self._past.append(last.closed())
        self._open = _OpenSecond(second)
        return self._open
