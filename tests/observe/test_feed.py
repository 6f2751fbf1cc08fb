"""Feeds: what is kept, what is handed on, and what a slow subscriber loses."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.observe.feed import Feed, Subscription


async def one(batches: Subscription[int]) -> tuple[list[int], int]:
    async with asyncio.timeout(10):
        return await anext(batches)


def test_the_last_items_are_kept() -> None:
    feed: Feed[int] = Feed(3)
    assert feed.last(5) == []
    for n in range(5):
        feed.publish(n)
    assert feed.last(2) == [3, 4]
    assert feed.last(50) == [2, 3, 4]
    assert feed.last(0) == feed.last(-1) == []


async def test_a_subscriber_gets_the_backlog_and_what_comes_in_order() -> None:
    feed: Feed[int] = Feed(10)
    for n in range(4):
        feed.publish(n)
    async with feed.subscribe(2) as batches:
        feed.publish(4)
        assert await one(batches) == ([2, 3, 4], 0)
        waiting = asyncio.create_task(one(batches))
        await asyncio.sleep(0)
        feed.publish(5)
        feed.publish(6)
        assert await waiting == ([5, 6], 0)


async def test_items_are_handed_over_in_batches_of_bounded_size() -> None:
    feed: Feed[int] = Feed(10, batch=3)
    async with feed.subscribe() as batches:
        for n in range(7):
            feed.publish(n)
        assert [await one(batches) for _ in range(3)] == [([0, 1, 2], 0), ([3, 4, 5], 0), ([6], 0)]


async def test_what_comes_thick_and_fast_travels_together_and_the_first_at_once() -> None:
    feed: Feed[int] = Feed(10, gather=1.0)
    async with feed.subscribe() as batches:
        waiting = asyncio.create_task(one(batches))
        await asyncio.sleep(0)
        feed.publish(0)
        async with asyncio.timeout(0.5):
            assert await waiting == ([0], 0)
        waiting = asyncio.create_task(one(batches))
        for n in range(1, 6):
            feed.publish(n)
            await asyncio.sleep(0.01)
            assert not waiting.done()
        assert await waiting == ([1, 2, 3, 4, 5], 0)


async def test_a_full_batch_waits_for_nothing_and_nor_does_what_is_left_at_the_end() -> None:
    feed: Feed[int] = Feed(10, batch=2, gather=60.0)
    async with feed.subscribe() as batches:
        for n in range(5):
            feed.publish(n)
        assert [await one(batches), await one(batches)] == [([0, 1], 0), ([2, 3], 0)]
        feed.close()
        assert await one(batches) == ([4], 0)


async def test_a_slow_subscriber_loses_the_oldest_and_is_told_once_how_many() -> None:
    feed: Feed[int] = Feed(10, queue=4, batch=2)
    async with feed.subscribe() as slow, feed.subscribe() as fast:
        seen = []
        for n in range(10):
            feed.publish(n)
            seen.append(await one(fast))
        assert seen == [([n], 0) for n in range(10)]
        assert await one(slow) == ([6, 7], 6)
        assert await one(slow) == ([8, 9], 0)


async def test_a_backlog_longer_than_the_queue_counts_as_no_loss() -> None:
    feed: Feed[int] = Feed(10, queue=4)
    for n in range(10):
        feed.publish(n)
    async with feed.subscribe(10) as batches:
        assert await one(batches) == ([6, 7, 8, 9], 0)


async def test_who_leaves_is_forgotten() -> None:
    feed: Feed[int] = Feed(10)

    async def watch() -> None:
        async with feed.subscribe() as batches:
            await anext(batches)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    assert feed.subscribers == 1
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert feed.subscribers == 0


async def test_a_cancelled_wait_loses_nothing() -> None:
    feed: Feed[int] = Feed(10)
    async with feed.subscribe() as batches:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(batches)
        feed.publish(1)
        assert await one(batches) == ([1], 0)


async def test_closing_ends_every_subscriber_after_what_waits() -> None:
    feed: Feed[int] = Feed(10)
    async with feed.subscribe() as batches, feed.subscribe() as other:
        waiting = asyncio.create_task(_all(other))
        await asyncio.sleep(0)
        feed.publish(1)
        feed.close()
        assert await _all(batches) == [([1], 0)]
        assert await waiting == [([1], 0)]


async def _all(batches: Subscription[int]) -> list[tuple[list[int], int]]:
    async with asyncio.timeout(10):
        return [batch async for batch in batches]


@given(st.lists(st.sampled_from(["publish", "fetch"]), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_every_item_is_handed_over_or_counted_as_dropped(steps: list[str], queue: int, batch: int) -> None:
    async def run() -> None:
        feed: Feed[int] = Feed(1, queue=queue, batch=batch, gather=0.0)
        published, next_item = 0, 0
        async with feed.subscribe() as batches:
            for step in [*steps, "publish", *["fetch"] * 10]:
                if step == "publish":
                    feed.publish(published)
                    published += 1
                elif next_item < published:
                    items, dropped = await one(batches)
                    assert items
                    assert items == list(range(next_item + dropped, next_item + dropped + len(items)))
                    next_item = items[-1] + 1
        assert next_item == published

    asyncio.run(run())
