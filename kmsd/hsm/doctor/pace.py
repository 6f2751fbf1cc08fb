"""Measure how fast a token is: one operation alone, and many threads together, for a bounded time. Knows nothing of
keys."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Final

from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor.findings import Timing
from kmsd.hsm.host.trials import NoSession, TrialPlace

_SECONDS: Final = 0.3
_MOST: Final = 1000


def alone(operation: str, work: Callable[[], object]) -> Timing:
    """Do one operation after another, on this thread. Raises what it raises."""
    times: list[float] = []
    began = perf_counter()
    while not times or (perf_counter() - began < _SECONDS and len(times) < _MOST):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return Timing(operation, sorted(times)[len(times) // 2], len(times) / (perf_counter() - began), 1)


def together(place: TrialPlace, operation: str, work: Callable[[int], object], threads: int) -> Timing:
    """Do one operation first on one thread, then on all, each with a session of its own: work(session). Raises CkrError
    if even the first fails."""
    with place.session() as session:
        single = alone(operation, lambda: work(session))
    done: list[int] = []

    def run() -> None:
        count, until = 0, perf_counter() + _SECONDS
        with contextlib.suppress(CkrError, NoSession), place.session() as own:
            while perf_counter() < until:
                work(own)
                count += 1
        done.append(count)

    workers = [threading.Thread(target=run, name=f"hsm-pace-{number}") for number in range(threads)]
    began = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Timing(operation, single.seconds, sum(done) / (perf_counter() - began), threads)
