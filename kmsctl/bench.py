"""Measures what a token can do through a running kmsd: Encrypt and Decrypt of random values by more and more callers.

Knows neither options nor how anything is shown. Without `full` it calls in short bursts with pauses between them, so
that kube-apiserver has the token for most of the time.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from kmsd.client import ClientError, Overloaded, Sessions, StatsFrame, Unhealthy

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient
    from kmsd.client.kms import KmsClient

T = TypeVar("T")

SHARE: Final = 0.25
"""Part of the time in which calls are made, unless all of it is asked for."""
BURST: Final = 0.1
"""Seconds of calls between two pauses; a call that is under way then is waited for."""
VALUE_BYTES: Final = 32
"""Bytes of a value: kube-apiserver encrypts seeds of this length."""
ENOUGH: Final = 0.9
"""Part of the best throughput that is as good as all of it."""
CALLS_MOST: Final = 1_000_000
"""Calls of one run, which are kept in memory until their quantiles are told."""


@dataclass
class Step:
    """The outcome of one number of callers. encrypts, decrypts: milliseconds of each call that succeeded. busy: seconds
    in which calls were under way. sessions, queued: the most that kmsd told meanwhile. wait_ms: mean of what a call
    spent in kmsd beside the token's operations; None if kmsd counted none. ended: why no step follows, if so."""

    callers: int
    encrypts: list[float] = field(default_factory=list)
    decrypts: list[float] = field(default_factory=list)
    refused: int = 0
    busy: float = 0.0
    sessions: int = 0
    queued: int = 0
    wait_ms: float | None = None
    ended: str = ""

    @property
    def calls(self) -> int:
        return len(self.encrypts) + len(self.decrypts)

    @property
    def per_second(self) -> float:
        return self.calls / self.busy if self.busy else 0.0

    def saw(self, sessions: Sessions) -> None:
        """Take note of how many sessions are busy, and calls queued."""
        self.sessions, self.queued = max(self.sessions, sessions.busy), max(self.queued, sessions.queued)


def quantile(times: list[float], share: float) -> float | None:
    """Return the time that this share of the calls stayed below; None without calls."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] if times else None


def worth(steps: list[Step]) -> int | None:
    """Return the fewest callers at once with whom the throughput is as good as the best, and so how many sessions are
    worth having; None if nothing was measured, or the most callers were the best, so that more might be better."""
    best = max((each.per_second for each in steps), default=0.0)
    found = next((each.callers for each in steps if best and each.per_second >= ENOUGH * best), None)
    return None if len(steps) > 1 and steps and found == steps[-1].callers else found


def measure(kmsd: AdminClient, kms: KmsClient, callers: list[int], seconds: float, *, full: bool) -> Iterator[Step]:
    """Yield a step for each number of callers, until kmsd refuses a call or is not healthy.

    seconds: for each step, pauses included. Raises ClientError where a call fails for another reason, or a value comes
    back as another one.
    """
    left = CALLS_MOST
    with ThreadPoolExecutor(max(callers)) as pool:
        for number in callers:
            step, before = Step(number), _frame(kmsd)
            ends = time.monotonic() + seconds
            while (began := time.monotonic()) < ends and not step.refused and step.calls < left:
                _burst(kmsd, kms, pool, step, ends - began if full else min(BURST, ends - began))
                took = time.monotonic() - began
                if not full:
                    time.sleep(took / SHARE - took)
            left -= step.calls
            step.wait_ms = _waited(before, _frame(kmsd))
            status = kmsd.get_status()
            if not status.healthy:
                step.ended = f"kmsd is not healthy: {status.healthz}"
            elif step.refused:
                step.ended = f"kmsd refused a call: {number} callers at once are more than it takes"
            elif left <= 0:
                step.ended = f"{CALLS_MOST:,} calls were made"
            yield step
            if step.ended:
                return


def _burst(kmsd: AdminClient, kms: KmsClient, pool: ThreadPoolExecutor, step: Step, seconds: float) -> None:
    over, began = threading.Event(), time.monotonic()
    calls = [pool.submit(_call, kms, step, began + seconds, over) for _ in range(step.callers)]
    try:
        while wait(calls, timeout=BURST / 2).not_done:
            step.saw(kmsd.get_status().sessions)
    finally:
        over.set()
    step.busy += time.monotonic() - began
    for each in calls:
        each.result()


def _call(kms: KmsClient, step: Step, ends: float, over: threading.Event) -> None:
    """Encrypt a value, decrypt it, and go on with the next one, as one caller does; at least one, however late it
    begins."""
    while True:
        value = secrets.token_bytes(VALUE_BYTES)
        try:
            made = _timed(step.encrypts, partial(kms.encrypt, value))
            back = partial(kms.decrypt, made.ciphertext, key_id=made.key_id, annotations=made.annotations)
            opened = _timed(step.decrypts, back)
        except (Overloaded, Unhealthy):
            step.refused += 1
            return
        if opened != value:
            raise ClientError("kmsd decrypted a value to another one", "`kmsctl doctor` tries the token", "DATA_LOSS")
        if over.is_set() or time.monotonic() > ends:
            return


def _timed(times: list[float], call: Callable[[], T]) -> T:
    began = time.perf_counter()
    answer = call()
    times.append(1000 * (time.perf_counter() - began))
    return answer


def _frame(kmsd: AdminClient) -> StatsFrame:
    with kmsd.watch_stats(history=0) as frames:
        return next(iter(frames))


def _waited(before: StatsFrame, after: StatsFrame) -> float | None:
    def grown(frame: StatsFrame) -> tuple[int, float]:
        calls = [each for each in frame.latencies if each.api == "v2" and each.method in ("Encrypt", "Decrypt")]
        token = sum(each.sum_ms for each in frame.operations if each.method.startswith(("encrypt", "decrypt")))
        return sum(each.count for each in calls), sum(each.sum_ms for each in calls) - token

    (calls, spent), (calls_now, spent_now) = grown(before), grown(after)
    return max(0.0, (spent_now - spent) / (calls_now - calls)) if calls_now > calls else None
