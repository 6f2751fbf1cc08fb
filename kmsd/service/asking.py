"""Put one question to one key manager after the other, until one answers or the time is up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Generic, TypeVar

from kmsd.errors import InvalidRequest
from kmsd.service.upstream import Upstream, UpstreamError

T = TypeVar("T")

_SHARE: Final = 0.5
"""Part of the time left that an upstream has to answer while there is another to ask."""
_LEAST_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Question(Generic[T]):
    """A call of a KMS API, all of which are safe to repeat.

    until: when the answer has to be there, by the monotonic clock. read: makes sense of an answer; raises UpstreamError
    if there is none. enough: whether an answer is good enough not to ask another.
    """

    path: str
    body: bytes
    until: float
    read: Callable[[bytes, Upstream], T]
    enough: Callable[[T, Upstream], bool] = lambda _, __: True

    async def put(self, upstream: Upstream, *, last: bool) -> T | UpstreamError:
        """Ask an upstream, which has only part of the time unless it is the last; return what came of it."""
        seconds = max(_LEAST_SECONDS, (self.until - monotonic()) * (1.0 if last else _SHARE))
        try:
            return self.read(await upstream.ask(self.path, self.body, seconds), upstream)
        except UpstreamError as failed:
            return failed


class Asking(Generic[T]):
    """A question on its way from one upstream to the next.

    well, ill: told of an upstream that has answered, and of one that failed. failures: what came of those that did not
    answer.
    """

    def __init__(
        self,
        question: Question[T],
        upstreams: Iterable[Upstream],
        *,
        well: Callable[[Upstream], None],
        ill: Callable[[Upstream, UpstreamError], None],
    ) -> None:
        self.failures: list[UpstreamError] = []
        self._question = question
        self._waiting = deque(upstreams)
        self._well = well
        self._ill = ill

    async def run(self, hedge: float) -> tuple[T, Upstream] | None:
        """Return the first answer that is good enough, and whose it is; None if there is none.

        hedge: seconds after which the next upstream is asked beside one that has not answered; 0: only when it has
        failed.
        """
        if hedge:
            return await self._race(hedge)
        while self._goes_on:
            upstream = self._waiting.popleft()
            outcome = await self._question.put(upstream, last=not self._waiting)
            if self._is_good(upstream, outcome) and not isinstance(outcome, UpstreamError):
                return outcome, upstream
        return None

    async def _race(self, hedge: float) -> tuple[T, Upstream] | None:
        running: dict[asyncio.Task[T | UpstreamError], Upstream] = {}
        try:
            while running or self._goes_on:
                if self._goes_on:
                    upstream = self._waiting.popleft()
                    put = self._question.put(upstream, last=not self._waiting)
                    running[asyncio.create_task(put, name="hedge")] = upstream
                pause = hedge if self._goes_on else None
                done, _ = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    upstream, outcome = running.pop(task), task.result()
                    if self._is_good(upstream, outcome) and not isinstance(outcome, UpstreamError):
                        return outcome, upstream
            return None
        finally:
            for task in running:
                task.cancel()

    @property
    def _goes_on(self) -> bool:
        """Whether there is another upstream to ask, and time for it."""
        first = not self.failures
        return bool(self._waiting) and (first or self._question.until - monotonic() > _LEAST_SECONDS)

    def _is_good(self, upstream: Upstream, outcome: T | UpstreamError) -> bool:
        """Tell what came of asking an upstream; return whether that is an answer to go by."""
        if not isinstance(outcome, UpstreamError):
            self._well(upstream)
            return self._question.enough(outcome, upstream)
        self.failures.append(outcome)
        if outcome.its_own:
            self._ill(upstream, outcome)
        if isinstance(outcome.error, InvalidRequest):
            self._waiting.clear()  # no other would take it
        return False
