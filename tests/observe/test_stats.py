"""What is counted, against the exact answer, over every kind of clock."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from hashlib import sha256
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.observe.histogram import LONGEST, QUANTILE_ERROR, SHORTEST, Latency
from kmsd.observe.stats import CLOCK_JITTER, FRAME_KEYS, HISTORY, MAX_KEYS, Second, Stats

START = 1_800_000_000


class Clock:
    def __init__(self, at: float = START) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def exact(seconds: Sequence[float], fraction: float) -> float:
    """Nearest rank, in milliseconds."""
    return sorted(seconds)[ceil(fraction * len(seconds)) - 1] * 1000


def only(latencies: Sequence[Latency]) -> Latency:
    assert len(latencies) == 1
    return latencies[0]


DURATIONS = st.floats(min_value=SHORTEST, max_value=LONGEST) | st.floats(-6, 2).map(
    lambda power: min(max(10.0**power, SHORTEST), LONGEST)
)


@given(st.lists(DURATIONS, min_size=1, max_size=200))
def test_quantiles_are_within_the_stated_error(durations: list[float]) -> None:
    clock = Clock()
    counted = Stats(clock)
    for each in durations:
        counted.record("v2", "Decrypt", "OK", each)
        counted.operation("decrypt", each)
    clock.at += 1
    frame = counted.frame(None)
    second = frame.seconds[-1]
    for found in (only(frame.latencies), only(frame.operations)):
        assert found.count == len(durations)
        assert found.sum_ms == pytest.approx(sum(durations) * 1000)
        assert found.max_ms == max(durations) * 1000
        assert found.p50_ms == pytest.approx(exact(durations, 0.5), rel=QUANTILE_ERROR)
        assert found.p90_ms == pytest.approx(exact(durations, 0.9), rel=QUANTILE_ERROR)
        assert found.p99_ms == pytest.approx(exact(durations, 0.99), rel=QUANTILE_ERROR)
    assert second.p50_ms == pytest.approx(exact(durations, 0.5), rel=QUANTILE_ERROR)
    assert second.p99_ms == pytest.approx(exact(durations, 0.99), rel=QUANTILE_ERROR)
    assert second.max_ms == max(durations) * 1000


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 99.9999999999, 100.0, 5000.0])
def test_what_no_bucket_is_made_for_counts_at_the_ends(seconds: float) -> None:
    counted = Stats(Clock())
    counted.record("v2", "Status", "OK", seconds)
    found = only(counted.frame(None).latencies)
    assert found.count == 1
    assert found.p50_ms <= LONGEST * 1000 * (1 + QUANTILE_ERROR)
    assert found.max_ms == max(seconds, 0) * 1000


def test_calls_are_counted_by_api_method_and_code() -> None:
    counted = Stats(Clock())
    for api, method, code in (
        ("v2", "Encrypt", "OK"),
        ("v2", "Encrypt", "OK"),
        ("v2", "Encrypt", "UNAVAILABLE"),
        ("v1beta1", "Encrypt", "OK"),
        ("admin", "GetStatus", "OK"),
    ):
        counted.record(api, method, code, 0.001)
    frame = counted.frame(None)
    assert {(each.api, each.method, each.code): each.count for each in frame.calls} == {
        ("v2", "Encrypt", "OK"): 2,
        ("v2", "Encrypt", "UNAVAILABLE"): 1,
        ("v1beta1", "Encrypt", "OK"): 1,
        ("admin", "GetStatus", "OK"): 1,
    }
    assert {(each.api, each.method): each.count for each in frame.latencies} == {
        ("v2", "Encrypt"): 3,
        ("v1beta1", "Encrypt"): 1,
        ("admin", "GetStatus"): 1,
    }


def test_a_second_holds_the_kms_calls_and_not_the_admin_s() -> None:
    clock = Clock()
    counted = Stats(clock)
    for api, method, code in (
        ("v2", "Encrypt", "OK"),
        ("v2", "Status", "OK"),
        ("v1beta1", "Version", "OK"),
        ("v1beta1", "Decrypt", "INTERNAL"),
        ("admin", "GetStatus", "UNAVAILABLE"),
    ):
        counted.record(api, method, code, 0.002)
    assert counted.frame(None).seconds == (), "the second is not over"
    clock.at += 1
    (second,) = counted.frame(None).seconds
    assert (second.unix_s, second.requests, second.errors, second.encrypts, second.decrypts) == (START, 4, 1, 1, 1)
    assert second.max_ms == 2.0


def test_the_seconds_of_a_frame_follow_those_of_the_one_before() -> None:
    clock = Clock()
    counted = Stats(clock)
    seen: list[int] = []
    since: int | None = None
    for step in (0.0, 0.4, 0.7, 1.0, 3.2, 0.0, 0.1, 20.0):
        clock.at += step
        counted.record("v2", "Encrypt", "OK", 0.001)
        frame = counted.frame(since)
        seen += [second.unix_s for second in frame.seconds]
        since = seen[-1] if seen else None
    assert seen == list(range(START, int(clock.at)))


def test_a_long_idle_time_costs_nothing_and_leaves_no_gap() -> None:
    clock = Clock()
    counted = Stats(clock)
    counted.record("v2", "Encrypt", "OK", 0.001)
    clock.at += 86_400
    assert counted.frame(None).seconds == tuple(Second(int(clock.at) - HISTORY + n) for n in range(HISTORY))
    counted.record("v2", "Encrypt", "OK", 0.001)
    clock.at += 1
    seconds = counted.frame(None).seconds
    assert len(seconds) == HISTORY
    assert [each.requests for each in seconds] == [0] * (HISTORY - 1) + [1]


def test_a_clock_set_back_a_little_loses_no_call() -> None:
    clock = Clock()
    counted = Stats(clock)
    clock.at += 10
    counted.record("v2", "Encrypt", "OK", 0.001)
    clock.at -= CLOCK_JITTER
    counted.record("v2", "Encrypt", "OK", 0.001)
    clock.at += CLOCK_JITTER + 1
    seconds = counted.frame(None).seconds
    assert [each.unix_s for each in seconds] == list(range(START, START + 11))
    assert seconds[-1].requests == 2


def test_a_clock_set_back_far_begins_anew_and_a_watcher_is_told() -> None:
    clock = Clock()
    counted = Stats(clock)
    counted.record("v2", "Encrypt", "OK", 0.001)
    clock.at += 100
    since = counted.frame(None).seconds[-1].unix_s
    clock.at -= 3600
    counted.record("v2", "Decrypt", "OK", 0.001)
    clock.at += 2
    seconds = counted.frame(since).seconds
    assert [(each.unix_s, each.requests) for each in seconds] == [(START - 3500, 1), (START - 3499, 0)]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 30.0, 899.0, 900.0, 901.0, 5000.0, -0.3, -3.0, -6.0, -4000.0]),
            st.sampled_from(["Encrypt", "Decrypt", "Status"]),
            st.sampled_from(["OK", "INTERNAL"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_the_seconds_agree_with_a_plain_list_over_any_clock(steps: list[tuple[float, str, str, bool]]) -> None:
    clock = Clock()
    counted = Stats(clock)
    reached, first = START, START
    calls: list[tuple[int, str, str]] = []
    for step, method, code, look in steps:
        clock.at += step
        second = int(clock.at)
        if second < reached - CLOCK_JITTER:
            reached, first = second, second
            calls.clear()
        reached = max(reached, second)
        counted.record("v2", method, code, 0.001)
        calls.append((reached, method, code))
        if look:
            counted.frame(None)
    frame = counted.frame(None)
    expected = []
    for unix_s in range(max(first, reached - HISTORY), reached):
        here = [call for call in calls if call[0] == unix_s]
        expected.append(
            (
                unix_s,
                len(here),
                sum(code != "OK" for _, _, code in here),
                sum(method == "Encrypt" for _, method, _ in here),
                sum(method == "Decrypt" for _, method, _ in here),
            )
        )
    assert [
        (each.unix_s, each.requests, each.errors, each.encrypts, each.decrypts) for each in frame.seconds
    ] == expected
    assert sum(each.count for each in frame.calls) == len(steps)


def test_uses_are_counted_per_key() -> None:
    clock = Clock()
    counted = Stats(clock)
    counted.used("a", "encrypt")
    counted.used("b", "decrypt")
    clock.at += 7.5
    counted.used("a", "decrypt")
    use = counted.key_use("a")
    assert (use.encrypts, use.decrypts, use.last_used) == (1, 1, START + 7.5)
    assert use.last_used_unix_ms == (START + 7.5) * 1000
    assert use.key_id_sha256 == sha256(b"a").hexdigest()
    assert [each.key_id for each in counted.uses()] == ["a", "b"]
    assert counted.frame(None).keys == tuple(counted.uses())
    never = counted.key_use("never")
    assert (never.encrypts, never.decrypts, never.last_used, never.last_used_unix_ms) == (0, 0, 0.0, 0)


def test_the_keys_kept_are_bounded_and_the_rest_stays_in_a_sum() -> None:
    counted = Stats(Clock())
    counted.used("kept", "decrypt")
    for n in range(MAX_KEYS + 10):
        counted.used(f"key-{n}", "encrypt")
        counted.used("kept", "decrypt")
    uses = counted.uses()
    assert len(uses) == MAX_KEYS
    assert counted.key_use("kept").decrypts == MAX_KEYS + 11
    assert counted.forgotten.encrypts == 11
    assert sum(use.encrypts for use in uses) + counted.forgotten.encrypts == MAX_KEYS + 10
    assert counted.key_use("key-0").encrypts == 0
    assert [use.key_id for use in counted.frame(None).keys] == [use.key_id for use in uses[:FRAME_KEYS]]


def test_last_uses_from_before_a_restart_are_taken_over_and_never_win_over_newer_ones() -> None:
    clock = Clock()
    counted = Stats(clock)
    counted.used("now", "encrypt")
    counted.load_last_used(
        {
            "old": START - 500,
            "older": START - 900,
            "now": START - 100,
            "ahead": START + 1e9,
            "bad": float("nan"),
            "0": 0,
        }
    )
    assert {use.key_id: use.last_used for use in counted.uses()} == {
        "now": START,
        "ahead": START,
        "old": START - 500,
        "older": START - 900,
    }
    assert [use.key_id for use in counted.uses()] == ["now", "ahead", "old", "older"]
    assert sum(use.encrypts + use.decrypts for use in counted.uses()) == 1


def test_of_too_many_last_uses_the_newest_are_taken_over() -> None:
    counted = Stats(Clock())
    counted.used("now", "encrypt")
    counted.load_last_used({f"key-{n}": 1000.0 + n for n in range(MAX_KEYS + 50)})
    assert len(counted.uses()) == MAX_KEYS
    assert counted.key_use(f"key-{MAX_KEYS + 49}").last_used == 1000.0 + MAX_KEYS + 49
    assert counted.key_use("key-0").last_used == 0


def test_operations_are_counted_by_name() -> None:
    counted = Stats(Clock())
    for n in range(30):
        counted.operation("encrypt" if n % 3 else "decrypt", 0.001)
    found = {each.method: each for each in counted.frame(None).operations}
    assert {name: each.count for name, each in found.items()} == {"decrypt": 10, "encrypt": 20}
    assert found["encrypt"].sum_ms == pytest.approx(20)
    assert {each.api for each in found.values()} == {""}


def test_calls_in_flight() -> None:
    counted = Stats(Clock())
    counted.began()
    counted.began()
    counted.ended()
    assert counted.frame(None).in_flight == 1


def test_fifteen_busy_minutes_fit_into_a_megabyte() -> None:
    clock = Clock()
    counted = Stats(clock)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(HISTORY + 10):
            clock.at = START + n
            for power in range(-60, 20, 4):
                counted.record("v2", "Decrypt", "OK", 10 ** (power / 10))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(counted.frame(None).seconds) == HISTORY
    assert used < 1024 * 1024


@pytest.mark.processes
def test_it_knows_nothing_of_ours_and_nothing_heavy() -> None:
    report = "import sys, kmsd.observe.stats; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.split(".")[0] == "kmsd"}
    assert ours == {"kmsd", "kmsd.observe", "kmsd.observe.histogram", "kmsd.observe.stats"}
    assert not loaded & {"asyncio", "grpc", "google.protobuf", "structlog"}
