"""A bound on how many writes begin in a second, for all that write at once."""

from __future__ import annotations

import asyncio
from typing import Final

SPARED: Final = 0.8
"""The part of its turn that a write gives back which wrote nothing."""


class Pace:
    """The turns of writes. rate: writes a second."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until one more write may begin."""
        now = asyncio.get_running_loop().time()
        begin = max(self._next, now)
        self._next = begin + self._gap
        await asyncio.sleep(begin - now)

    def spare(self) -> None:
        """Let the next turn come sooner, as a write turned out to cost etcd nothing."""
        self._next -= SPARED * self._gap

    def hold(self, seconds: float) -> None:
        """Let no turn begin before so many seconds have passed, as the server asks."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)
