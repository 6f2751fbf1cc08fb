"""One call's leave to change keys, for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from typing import TypeVar, TypeVarTuple

from kmsd.errors import DeadlineExceeded
from kmsd.hsm.connection import Hsm
from kmsd.hsm.session import TokenSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Turn:
    """until: of the monotonic clock. A change that has not begun by then does not begin: a token that hangs would make
    it when it comes back, whatever has been decided since. One that has begun is carried through, however long it
    takes."""

    def __init__(self, until: float = inf) -> None:
        self._until = until
        self._begun = False

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Waits inside for nothing that lasts longer than the caller does. Raises DeadlineExceeded."""
        left = self._until - monotonic()
        try:
            async with asyncio.timeout(None if left == inf else left) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise _late() from None
            raise

    def begin(self) -> None:
        """From here on something changes. Called on any thread. Raises DeadlineExceeded."""
        if not self._begun and monotonic() > self._until:
            raise _late()
        self._begun = True

    async def change(self, hsm: Hsm, fn: Callable[[TokenSession, *Ts], T], *args: *Ts) -> T:
        """fn(session, *args) with a read-write session, if it is not too late by the time that the token has one.
        Raises KmsdError."""

        def timely(session: TokenSession, *given: *Ts) -> T:
            self.begin()
            return fn(session, *given)

        return await hsm.run_rw(timely, *args)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the token, or another change of its keys, kept this one waiting for longer than its caller waits: nothing was "
        "changed",
        "check the token (kmsctl status), then repeat the call",
    )
