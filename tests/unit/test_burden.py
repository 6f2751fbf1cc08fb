"""Who has his share waits, and nobody else does; frames are found whatever the pieces that they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.transport import burden as module
from kmsd.transport.burden import REQUEST, Burden, Carried
from kmsd.transport.frames import PREFACE, Boundaries, Reason, frame_at, goaway


def fill(burden: Burden, carried: Carried, count: int) -> None:
    for stream in range(1, 2 * count, 2):
        burden.begin(carried, stream)


def test_nobody_waits_while_there_is_room() -> None:
    burden, greedy = Burden(10 * REQUEST), Carried(1)
    fill(burden, greedy, 9)
    assert not burden.must_wait(greedy)
    burden.begin(greedy, 99)
    assert burden.must_wait(greedy)
    burden.end(greedy, 99)
    assert not burden.must_wait(greedy)


def test_users_have_equal_shares_and_so_have_the_connections_of_one() -> None:
    burden = Burden(12 * REQUEST)
    many = [Carried(1) for _ in range(3)]
    other, newcomer = Carried(2), Carried(1)
    for each in many:
        fill(burden, each, 4)
    assert all(burden.must_wait(each) for each in many)
    assert not burden.must_wait(newcomer)
    fill(burden, other, 5)
    assert not burden.must_wait(other), "half of 12 are his"
    burden.begin(other, 99)
    assert burden.must_wait(other)


def test_bytes_weigh_and_what_is_taken_back_does_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    burden, carried = Burden(10 * REQUEST), Carried(1)
    burden.begin(carried, 1)
    burden.add(carried, 1, 9 * REQUEST)
    burden.add(carried, 3, 9 * REQUEST)  # of a stream that nobody has begun
    assert burden.must_wait(carried)
    burden.end(carried, 1, lingers=True)
    assert burden.must_wait(carried)
    now += 2
    burden.settle()
    assert not burden.must_wait(carried)
    burden.begin(carried, 5)
    burden.leave(carried)
    now += 2
    burden.settle()
    assert (carried.weight, carried.weights, carried.unfinished) == (0, {}, {})


def made(length: int, kind: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + b"x" * length


FRAMES = (
    made(5, 1, 4, 1) + made(20, 0, 0, 1) + made(0, 0, 1, 1) + made(7, 1, 0, 3) + made(3, 9, 4, 3) + made(4, 3, 0, 3)
)
BEFORE_EACH = {0, 14, 43, 52, 80, 93}
"""Not between HEADERS and its CONTINUATION, at 68."""


@given(st.lists(st.integers(1, len(FRAMES) - 1), unique=True).map(sorted))
def test_a_place_between_frames_is_found_in_any_pieces(cuts: list[int]) -> None:
    boundaries, ended, begin = Boundaries(), set[int](), 0
    for end in [*cuts, len(FRAMES)]:
        place = boundaries.follow(FRAMES[begin:end], ended)
        fits = [each for each in BEFORE_EACH if begin <= each <= end]
        assert place == (max(fits) - begin if fits else -1)
        assert boundaries.whole == (end in BEFORE_EACH)
        begin = end
    assert ended == {1, 3}


def test_a_goaway_is_one_frame_that_ends_no_stream() -> None:
    frame = goaway(Reason.ENHANCE_YOUR_CALM, "why")
    assert frame_at(frame, 0) == (11, 7, 0, 0)
    assert frame[9:] == b"\x7f\xff\xff\xff\0\0\0\x0bwhy"
    assert len(PREFACE) == 24
