"""One call's leave to change keys, for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from typing import Final, TypeVar, TypeVarTuple

from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.keys import begin, late
from kmsd.hsm.host.session import TokenSession

_CHANGE_SECONDS: Final = 30.0
"""Time limit of a token for one change; an RSA key takes seconds."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Permit:
    """A call's leave to change keys. until: by the monotonic clock. A change that has not begun by then does not begin:
    a token that hangs would make it when it comes back, whatever has been decided since. One that has begun is carried
    through, however long it takes."""

    def __init__(self, until: float = inf) -> None:
        self._until = until
        self._begun = False

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Bound what is done inside by the time for which the caller waits. Raises DeadlineExceeded."""
        left = self._until - monotonic()
        try:
            async with asyncio.timeout(None if left == inf else left) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise late() from None
            raise

    def begin(self) -> None:
        """Begin to change something, if there is time. Called on any thread. Raises DeadlineExceeded."""
        begin(self._latest)
        self._begun = True

    @property
    def _latest(self) -> float:
        return inf if self._begun else self._until

    async def change(self, hsm: Hsm, fn: Callable[[TokenSession, float, *Ts], T], *args: *Ts) -> T:
        """Have fn(session, until, *args) done with a read-write session, if it is not too late by the time that the
        token has one. Raises KmsdError."""
        changed = await hsm.run(fn, self._latest, *args, timeout=_CHANGE_SECONDS, retry=False)
        self._begun = True
        return changed
