"""Metrics: each use of a key in one series, buckets that count what was counted, and no more series than is told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kmsd.metrics import catalogue, listener
from kmsd.metrics.catalogue import METRICS
from kmsd.metrics.exposition import OPENMETRICS, Exposition
from kmsd.metrics.keys import MOST, KeySeries, Uses
from kmsd.metrics.samples import KeyUses, Sample
from kmsd.metrics.server import Probes, application
from kmsd.observe.histogram import BOUNDS, Histogram, bucket_of
from kmsd.observe.stats import Stats

KEYS = [f"key-{number}" for number in range(8)]


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 9), st.integers(0, 9)), max_size=6),
            st.lists(st.sampled_from(KEYS), max_size=2),
            st.sets(st.sampled_from(KEYS), max_size=2),
        ),
        max_size=12,
    )
)
def test_every_use_is_in_one_series_and_none_goes_back(
    steps: list[tuple[list[tuple[str, int, int]], list[str], set[str]]],
) -> None:
    series, counts, gone = KeySeries(most=3), dict[str, Uses](), (0, 0)
    seen: dict[str, Uses] = {"other": (0, 0)}
    increased, done = 0, 0
    for uses, forgotten, write in steps:
        for key_id in forgotten:
            lost = counts.pop(key_id, (0, 0))
            gone = gone[0] + lost[0], gone[1] + lost[1]
        own, others = series.look(
            dict(counts), gone, write
        )  # so that what is forgotten is seen before it is used again
        seen = {"other": others, **own}
        for key_id, encrypts, decrypts in uses:
            before = counts.get(key_id, (0, 0))
            counts[key_id] = before[0] + encrypts, before[1] + decrypts
            done += encrypts + decrypts
        own, others = series.look(dict(counts), gone, write)
        told = {"other": others, **own}
        for name, now in told.items():
            before = seen.get(name, (0, 0))
            assert now[0] >= before[0], name
            assert now[1] >= before[1], name
            increased += sum(now) - sum(before)
        assert write & counts.keys() <= own.keys()
        assert len(own.keys() - write) <= 3
    assert increased == done


def test_the_keys_that_are_used_most_have_series_and_one_that_is_used_twice_as_much_takes_one_over() -> None:
    series = KeySeries(most=2)
    own, others = series.look({"a": (5, 0), "b": (9, 0), "c": (1, 0)}, (0, 0), ())
    assert (set(own), others) == ({"a", "b"}, (1, 0))
    own, others = series.look({"a": (5, 0), "b": (9, 0), "c": (8, 0)}, (0, 0), ())
    assert (set(own), others) == ({"a", "b"}, (8, 0)), "not twice as much"
    own, others = series.look({"a": (5, 0), "b": (9, 0), "c": (20, 0)}, (0, 0), ())
    assert (own, others) == ({"b": (9, 0), "c": (12, 0)}, (8, 0)), "what was told among the others stays there"


@given(st.lists(st.floats(1e-7, 200), max_size=200))
def test_a_bucket_counts_what_is_shorter_but_for_what_is_nearer_to_its_bound_than_a_tenth(seconds: list[float]) -> None:
    histogram = Histogram()
    for each in seconds:
        histogram.add(each, bucket_of(each))
    view = histogram.view()
    *cumulative, total = view.cumulative()
    assert len(cumulative) == len(BOUNDS)
    assert total == len(seconds)
    assert view.seconds == pytest.approx(sum(seconds))
    for bound, count in zip(BOUNDS, cumulative, strict=True):
        assert sum(each < bound * 0.9 for each in seconds) <= count <= sum(each < bound * 1.1 for each in seconds)


def test_names_are_prometheus_own_and_each_is_there_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 40
    for metric in METRICS:
        assert re.fullmatch(r"kmsd_[a-z0-9]+(_[a-z0-9]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")


class _Facts:
    """Ten thousand keys in use, and what else was counted."""

    def __init__(self) -> None:
        self.gathered = 0
        self.stats = Stats()
        for number in range(12_000):
            for _ in range(1 + number % 7):
                self.stats.used(f"key-{number}", "encrypt")
        self.stats.record("v2", "Encrypt", "OK", 0.001)

    def __call__(self) -> Iterator[Sample]:
        self.gathered += 1
        gone = self.stats.forgotten
        yield Sample(
            catalogue.KEY_OPERATIONS,
            KeyUses(self.stats.key_counts(), (gone.encrypts, gone.decrypts), {"key-1", "key-11999"}),
        )
        for api, method, view in self.stats.counted().durations:
            yield Sample(catalogue.RPC_DURATION, view, (api, method))


async def test_ten_thousand_keys_have_few_series_and_none_of_their_uses_is_missing() -> None:
    facts = _Facts()
    read = text_string_to_metric_families((await Exposition(facts).text(OPENMETRICS)).decode())  # type: ignore[no-untyped-call]
    families = {each.name: each.samples for each in read}
    operations = families["kmsd_key_operations"]
    assert len(operations) == 2 * (MOST + 2 + 1) - 2, "key-1 is forgotten, for it was used longest ago"
    assert sum(each.value for each in operations) == sum(1 + number % 7 for number in range(12_000))
    assert [each.value for each in families["kmsd_rpc_duration_seconds"] if each.name.endswith("_count")] == [1]


async def test_who_asks_without_end_has_the_facts_gathered_seldom() -> None:
    facts = _Facts()
    exposition = Exposition(facts)
    texts = await asyncio.gather(*(exposition.text(form) for form in (OPENMETRICS, OPENMETRICS, "text") * 5))
    assert facts.gathered == 1
    assert len({bytes(each) for each in texts}) == 2
    began = monotonic()
    while facts.gathered == 1:
        await exposition.text()
        assert monotonic() - began < 60
    assert monotonic() - began > 0.02  # twenty times what it took


async def test_a_connection_is_ended_after_its_time_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LIFE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"

    async def metrics(form: str) -> bytes:
        return b""

    served = listener.HttpListener(where, "", application(Probes(list, list, metrics)), lambda error: None)
    await served.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(where.rpartition(":")[2]))
        began = monotonic()
        with contextlib.suppress(ConnectionError):
            while monotonic() - began < 5 and not reader.at_eof():
                writer.write(b"GET /livez HTTP/1.1\r\nHost: kmsd\r\n\r\n")
                await reader.read(1000)
        assert 0.1 < monotonic() - began < 4
        writer.close()
    finally:
        await served.stop()


async def test_gathering_holds_the_event_loop_for_milliseconds() -> None:
    facts = _Facts()
    took = []
    for _ in range(5):
        began = monotonic()
        list(facts())
        took.append(monotonic() - began)
    assert min(took) < 0.05  # 3 ms where nothing else runs
