"""Give turns to those who wait, so many in a second and one key after the other: who comes often waits for himself."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from time import monotonic
from typing import Final

_AGAIN_SECONDS: Final = 0.02
"""Seconds between two times at which turns are given, while somebody waits."""


class Turns:
    """The turns at something that costs much. Belongs to one event loop.

    a_second: turns in a second. at_once: turns that are given at once after a while without any.
    """

    def __init__(self, a_second: float, at_once: int) -> None:
        self._a_second = a_second
        self._at_once = at_once
        self._left = float(at_once)
        self._at = monotonic()
        self._waiting: dict[Hashable, list[asyncio.Future[None]]] = {}
        self._due: asyncio.TimerHandle | None = None

    async def turn(self, key: Hashable) -> None:
        """Wait for a turn. key: whom the turn is for.

        Of those with one key the latest comes first: who has waited for long has most likely gone.
        """
        self._fill()
        if self._left >= 1.0 and not self._waiting:
            self._left -= 1.0
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(turn)
        self._give_soon()
        await turn

    def _fill(self) -> None:
        now = monotonic()
        self._left = min(float(self._at_once), self._left + (now - self._at) * self._a_second)
        self._at = now

    def _give_soon(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._give)

    def _give(self) -> None:
        self._due = None
        self._fill()
        while self._waiting and self._left >= 1.0:
            # The first key goes to the end, if somebody with it still waits.
            key = next(iter(self._waiting))
            waiting = self._waiting.pop(key)
            turn = waiting.pop()
            if waiting:
                self._waiting[key] = waiting
            if not turn.done():
                turn.set_result(None)
                self._left -= 1.0
        if self._waiting:
            self._give_soon()
