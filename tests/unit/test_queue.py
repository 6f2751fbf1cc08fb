"""Who is next, who is refused at once, and who is dropped before he costs the token anything."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import pytest

from kmsd.errors import DeadlineExceeded, Overloaded, Unavailable
from kmsd.hsm import queue as queues
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.operation import definition_of
from kmsd.hsm.queue import Job, Queue
from kmsd.share import Share, share

RANDOM = definition_of(TokenSession.random)


class Clock:
    """The monotonic clock of the queue."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queues, "monotonic", clock)
    return clock


def _queue(most: int = 1000) -> Queue:
    return Queue(most, lambda: (0, 4), lambda: None)


def _submit(queue: Queue, whose: Share, timeout: float = 3.0) -> asyncio.Future[Any]:
    token = share.set(whose)
    try:
        return queue.submit(RANDOM, (8,), timeout, retry=True)
    finally:
        share.reset(token)


def _taken(queue: Queue, *, idle: bool = False) -> Job:
    job = queue.take(idle=idle)
    assert job is not None
    return job


def _answer(queue: Queue, clock: Clock, job: Job, seconds: float) -> None:
    clock.now += seconds
    job.future.set_result(b"")
    queue.answered([(job, seconds)])


async def test_no_share_starves_another(clock: Clock) -> None:
    queue = _queue()
    for _ in range(480):
        _submit(queue, Share.V1BETA1)
    for _ in range(40):
        _submit(queue, Share.V2)
    first = Counter(_taken(queue).share for _ in range(80))
    assert first[Share.V2] == 40
    assert first[Share.V1BETA1] == 40


async def test_health_and_admin_have_their_part_and_no_more(clock: Clock) -> None:
    queue = _queue()
    for whose in Share:
        for _ in range(100):
            _submit(queue, whose)
    first = Counter(_taken(queue).share for _ in range(95))
    assert first == {Share.HEALTH: 40, Share.V2: 20, Share.V1BETA1: 20, Share.ADMIN: 10, Share.JWT: 5}


async def test_a_share_that_was_away_gets_no_more_than_its_part_when_it_is_back(clock: Clock) -> None:
    queue = _queue()
    for _ in range(200):
        _submit(queue, Share.V2)
    for _ in range(100):
        _taken(queue)
    for _ in range(100):
        _submit(queue, Share.V1BETA1)
    assert Counter(_taken(queue).share for _ in range(40)) == {Share.V2: 20, Share.V1BETA1: 20}


async def test_what_cannot_end_in_time_is_refused_at_once_with_the_wait_it_would_have_had(clock: Clock) -> None:
    queue = _queue()
    futures = [_submit(queue, Share.V2) for _ in range(20)]
    for _ in range(10):
        _answer(queue, clock, _taken(queue), 0.05)
    assert queue.seconds == pytest.approx(0.05)
    # A token that does one in 50 ms does sixty within three seconds.
    accepted = 0
    said = ""
    while not said:
        try:
            futures.append(_submit(queue, Share.V2))
        except Overloaded as error:
            said = error.message
        else:
            accepted += 1
    assert re.fullmatch(r"the call would wait 2\.\d s for the token, and its caller waits 3\.0 s", said)
    assert 40 <= accepted <= 60


async def test_health_is_never_refused(clock: Clock) -> None:
    queue = _queue(most=5)
    for _ in range(5):
        _submit(queue, Share.HEALTH)
    _submit(queue, Share.HEALTH)
    for _ in range(5):
        _submit(queue, Share.V2)
    with pytest.raises(Overloaded, match=r"queue of the token is full: 5 calls wait for it already \(token\.queue\)"):
        _submit(queue, Share.V2)


async def test_what_became_too_late_is_dropped_before_it_costs_anything(clock: Clock) -> None:
    queue = _queue()
    _answer(queue, clock, _sent(queue), 0.5)
    late = [_submit(queue, Share.V2, 1.0) for _ in range(3)]
    clock.now += 0.7
    sound = _submit(queue, Share.V2, 1.0)
    assert _taken(queue).future is sound
    for each in late:
        with pytest.raises(DeadlineExceeded, match="did not answer in time"):
            await each


def _sent(queue: Queue) -> Job:
    _submit(queue, Share.V2)
    return _taken(queue)


async def test_a_token_with_nothing_to_do_is_tried_whatever_is_believed_of_it(clock: Clock) -> None:
    """Else one that hung for a while would never be asked again."""
    queue = _queue()
    _answer(queue, clock, _sent(queue), 30.0)
    future = _submit(queue, Share.V2, 1.0)
    assert _taken(queue, idle=True).future is future


async def test_one_short_answer_counts_for_more_than_one_long_one(clock: Clock) -> None:
    queue = _queue()
    _answer(queue, clock, _sent(queue), 0.001)
    _answer(queue, clock, _sent(queue), 10.0)
    long = queue.seconds
    assert long < 1.1
    for _ in range(10):
        _answer(queue, clock, _sent(queue), 0.001)
    assert queue.seconds < 0.01


async def test_what_a_host_that_died_held_is_next(clock: Clock) -> None:
    queue = _queue()
    first, second = _submit(queue, Share.V2), _submit(queue, Share.V2)
    job = _taken(queue)
    assert job.future is first
    queue.give_back(job)
    assert job.repeated
    assert _taken(queue).future is first
    assert _taken(queue).future is second


async def test_what_is_handed_back_alone_is_not_sent_before_the_host_that_died_is_let_go(clock: Clock) -> None:
    sent: list[Job | None] = []
    queue = Queue(10, lambda: (0, 4), lambda: sent.append(queue.take(idle=True)))
    first = _submit(queue, Share.V2)
    (job,) = sent
    assert job is not None
    queue.give_back(job)
    assert len(sent) == 1
    await asyncio.sleep(0)
    assert [each and each.future for each in sent] == [first, first]


async def test_all_end_when_the_token_is_away(clock: Clock) -> None:
    queue = _queue()
    futures = [_submit(queue, whose) for whose in Share]
    queue.fail_all(Unavailable("away", "bring it back"))
    for each in futures:
        with pytest.raises(Unavailable, match="away"):
            await each
    assert queue.take(idle=True) is None


async def test_a_deadline_ends_a_call_wherever_it_is() -> None:
    queue = _queue()
    waiting, sent = _submit(queue, Share.V2, 0.1), _submit(queue, Share.V2, 0.1)
    _taken(queue)
    for each in (waiting, sent):
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(each, 2)
