"""Sums, rates, columns, and words for numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsctl.figures import FrameHistory, columns, totals, window
from kmsctl.text import count, cut, milliseconds, rate, sparkline, width
from kmsd.client import CallCount, KeyUse, Latency, Second, Sessions, StatsFrame

START = datetime(2026, 1, 1, tzinfo=UTC)
BARS = "▁▂▃▄▅▆▇█"


def second(
    at: int, requests: int = 0, errors: int = 0, p50: float = 0.0, p99: float = 0.0, most: float = 0.0
) -> Second:
    return Second(START + timedelta(seconds=at), requests, errors, 0, requests, p50, p99, most)


def frame(
    at: float, calls: int, uses: int = 0, seconds: Sequence[Second] = (), started: datetime = START
) -> StatsFrame:
    return StatsFrame(
        time=START + timedelta(seconds=at),
        seconds=tuple(seconds),
        calls=(CallCount("v2", "Decrypt", "OK", calls), CallCount("v2", "Decrypt", "NOT_FOUND", 1)),
        latencies=(Latency("v2", "Decrypt", calls, 1.0, 0.1, 0.2, 0.3, 0.4),),
        operations=(),
        keys=(KeyUse("id", "hash", 0, uses, None),),
        sessions=Sessions(1, 1, 0, 0, 0),
        in_flight=0,
        started=started,
        quantile_error=0.05,
    )


def test_a_window_adds_up() -> None:
    found = window([second(0, 10, 1, 0.5, 2.0, 3.0), second(1), second(2, 30, 0, 0.7, 1.0, 9.0)])
    assert (found.seconds, found.requests, found.errors, found.peak) == (3, 40, 1, 30)
    assert found.rate == pytest.approx(40 / 3)
    assert (found.typical_p50_ms, found.worst_p99_ms, found.max_ms) == (0.7, 2.0, 9.0)


def test_a_window_without_calls_has_no_latencies() -> None:
    for seconds in ([], [second(0), second(1)]):
        found = window(seconds)
        assert (found.requests, found.rate) == (0, 0.0)
        assert (found.typical_p50_ms, found.worst_p99_ms, found.max_ms) == (None, None, None)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0.01, 1000)), max_size=50))
def test_a_typical_second_lies_between_the_others(seen: list[tuple[int, float]]) -> None:
    found = window([second(at, requests, p50=p50) for at, (requests, p50) in enumerate(seen)])
    busy = [p50 for requests, p50 in seen if requests]
    if busy:
        assert found.typical_p50_ms is not None
        assert min(busy) <= found.typical_p50_ms <= max(busy)
    else:
        assert found.typical_p50_ms is None


def test_totals_join_counts_and_latencies_with_the_admin_api_last() -> None:
    base = frame(0, 7)
    one = StatsFrame(**{**base.__dict__, "calls": (CallCount("admin", "ListKeys", "OK", 2), *base.calls)})
    admin_last = totals(one)
    assert [(each.api, each.method, each.count, each.errors) for each in admin_last] == [
        ("v2", "Decrypt", 8, 1),
        ("admin", "ListKeys", 2, 0),
    ]
    assert admin_last[0].latency == base.latencies[0]
    assert admin_last[1].latency is None


def test_rates_look_back_a_few_seconds() -> None:
    memory = FrameHistory()
    for at in range(20):
        memory.add(frame(at, calls=at * (10 if at < 12 else 20), uses=3 * at))
    assert memory.call_rates()["v2", "Decrypt"] == pytest.approx(20.0)
    assert memory.key_rates()["id", ""] == pytest.approx(3.0)


def test_one_frame_has_no_rates() -> None:
    memory = FrameHistory()
    assert memory.now is None
    assert memory.call_rates() == {}
    memory.add(frame(0, 10))
    assert memory.call_rates() == {}


def test_a_kmsd_that_counts_from_nothing_again_has_no_negative_rates() -> None:
    memory = FrameHistory()
    for at in range(3):
        memory.add(frame(at, 1000))
    memory.add(frame(3, 5, started=START + timedelta(seconds=2)))
    memory.add(frame(4, 15, started=START + timedelta(seconds=2)))
    assert memory.call_rates()["v2", "Decrypt"] == pytest.approx(10.0)


@given(st.integers(1, 100), st.integers(1, 60))
def test_memory_is_bounded(keep: int, frames: int) -> None:
    memory = FrameHistory(keep)
    for at in range(frames):
        memory.add(frame(at, at, seconds=[second(2 * at), second(2 * at + 1)]))
    assert len(memory.seconds) == min(keep, 2 * frames)


def test_columns_do_not_change_as_time_passes() -> None:
    values = [(START + timedelta(seconds=at), float(at % 7)) for at in range(200)]
    before = columns(values[:150], 10, 100, max)
    after = columns(values[:160], 10, 100, max)
    assert before[-9:-1] == after[-10:-2]  # one column of 10 seconds later


@given(
    st.lists(st.floats(0, 1e6), max_size=300),
    st.integers(1, 100),
    st.integers(1, 900),
)
def test_columns_fit_and_keep_the_highest(values: list[float], number: int, span: int) -> None:
    timed = [(START + timedelta(seconds=at), value) for at, value in enumerate(values)]
    found = columns(timed, number, span, max)
    assert len(found) <= number
    assert not found or max(found) <= max(values)


def test_a_missing_second_is_a_gap() -> None:
    values = [(START, 1.0), (START + timedelta(seconds=3), 2.0)]
    assert columns(values, 10, 10, max) == [1.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], "▁▁"), ([0, 1], "▁█"), ([0.001, 100], "▂█"), ([1, 2, 4], "▃▅█"), ([5], "█")],
)
def test_a_sparkline_shows_nothing_as_nothing_and_little_as_something(values: list[float], line: str) -> None:
    assert sparkline(values, BARS) == line


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (999499, "999k"), (999500, "1M"), (5 * 10**12, "5T")],
)
def test_counts_are_short(number: int, text: str) -> None:
    assert count(number) == text


@given(st.integers(0, 2**64))
def test_every_count_fits_a_column(number: int) -> None:
    assert len(count(number)) <= 9


@pytest.mark.parametrize(("number", "text"), [(0.0523, "0.052"), (0.5, "0.50"), (12.345, "12.35"), (123.4, "123")])
def test_milliseconds_show_what_matters(number: float, text: str) -> None:
    assert milliseconds(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (0.2, "0.20"), (12.34, "12.3"), (1234.5, "1.23k")])
def test_rates_show_what_matters(number: float, text: str) -> None:
    assert rate(number) == text


@given(st.text(st.characters(exclude_categories=["C"]), max_size=50), st.integers(0, 60))
def test_a_cut_fits_and_is_a_beginning(text: str, room: int) -> None:
    found = cut(text, room)
    assert text.startswith(found)
    assert width(found) <= room


def test_a_cut_never_halves_a_wide_character() -> None:
    assert cut("a鍵b", 2) == "a"
    assert cut("a鍵b", 3) == "a鍵"
    assert math.isclose(width(cut("鍵" * 10, 7)), 6)
