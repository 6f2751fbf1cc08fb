"""Turns are given so many in a second, to one key after the other."""

from __future__ import annotations

import asyncio
from time import monotonic

from kmsd.transport.turns import Turns


def test_who_comes_often_waits_for_himself() -> None:
    async def run() -> None:
        turns, order = Turns(200, 5), list[str]()

        async def one(key: str) -> None:
            await turns.turn(key)
            order.append(key)

        crowd = [asyncio.create_task(one("crowd")) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert order.count("crowd") < 50
        began = monotonic()
        await one("other")
        assert monotonic() - began < 0.25
        assert order.count("crowd") < 90
        await asyncio.gather(*crowd)
        assert len(order) == 101

    asyncio.run(run())


def test_no_more_turns_than_allowed_are_given_and_those_who_left_get_none() -> None:
    async def run() -> None:
        turns = Turns(100, 10)
        began = monotonic()
        gone = [asyncio.create_task(turns.turn("a")) for _ in range(500)]
        await asyncio.sleep(0.05)
        for each in gone[20:]:
            each.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        # Those who left took none of the turns that others waited for.
        await asyncio.gather(*(turns.turn("b") for _ in range(20)))
        assert 0.15 < monotonic() - began < 3

    asyncio.run(run())
