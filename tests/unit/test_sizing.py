"""How many sessions a token gets, by what it is seen to do: a token of numbers in the place of a real one."""

from __future__ import annotations

import pytest

from kmsd.hsm.sizing import Sizing


class _Token:
    """Takes `seconds` for an operation, `parallel` of them at once at most, and has `room` for sessions."""

    def __init__(self, seconds: float, *, parallel: int = 1000, room: int = 1000) -> None:
        self.now = 1000.0
        self.seconds, self.parallel, self.room = seconds, parallel, room
        self.asked: list[int] = []
        self.sizing = Sizing(4, 32, self.asked.append, lambda: self.now)
        self.sizing.begin(4, alone=False)

    def work(self, callers: int, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            inside = min(callers, self.sizing.sessions)
            took = self.seconds * max(1.0, inside / self.parallel)
            self.now += took / inside
            self.sizing.answered([took], inside, took, waiting=callers > inside)
            self.answer()

    def rest(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            self.sizing.rest()
            self.answer()

    def answer(self) -> None:
        if self.asked:
            wanted = self.asked.pop()
            self.sizing.resized(min(wanted, self.room), "CKR_SESSION_COUNT" if wanted > self.room else "")


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.2])
def test_a_token_that_does_many_things_at_once_gets_all_that_there_may_be(seconds: float) -> None:
    token = _Token(seconds)
    token.work(64, 0.5 + 100 * seconds)
    assert token.sizing.sessions == 32


@pytest.mark.parametrize(("parallel", "sessions"), [(1, 4), (4, 4), (8, 8), (16, 16)])
def test_sessions_that_make_it_no_faster_are_taken_back_and_not_tried_again_at_once(
    parallel: int, sessions: int
) -> None:
    token = _Token(0.01, parallel=parallel)
    token.work(64, 10.0)
    assert token.sizing.sessions == sessions
    for _ in range(30):
        token.work(64, 1.0)
        assert token.sizing.sessions == sessions
    token.parallel = 32
    token.work(64, 40.0)
    assert token.sizing.sessions == 32


def test_what_was_refused_is_remembered_and_tried_again_later() -> None:
    token = _Token(0.01, room=7)
    token.work(64, 5.0)
    assert (token.sizing.sessions, token.sizing.refused) == (7, "CKR_SESSION_COUNT")
    token.room = 100
    token.work(64, 20.0)
    assert token.sizing.sessions == 7
    token.work(64, 60.0)
    assert (token.sizing.sessions, token.sizing.refused) == (32, "")


def test_a_quick_token_and_one_without_a_queue_keep_what_they_have() -> None:
    for token, callers in ((_Token(0.0002), 64), (_Token(0.01), 4)):
        token.work(callers, 3.0)
        assert token.sizing.sessions == 4


def test_rest_halves_what_was_not_needed_and_work_keeps_what_is() -> None:
    token = _Token(0.01)
    token.work(64, 3.0)
    assert token.sizing.sessions == 32
    for _ in range(40):
        token.work(64, 0.5)
        token.rest(0.5)
    assert token.sizing.sessions == 32
    token.rest(35.0)
    assert token.sizing.sessions == 8
    token.rest(60.0)
    assert token.sizing.sessions == 4


def test_a_token_that_takes_one_call_at_a_time_stays_at_one() -> None:
    token = _Token(0.01)
    token.sizing.begin(1, alone=True)
    token.work(64, 5.0)
    token.rest(60.0)
    assert token.sizing.sessions == 1
