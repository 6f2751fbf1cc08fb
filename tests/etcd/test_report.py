"""The file with a scan's result: read back as it was, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.client import InvalidRequest, KeyInEtcd, ScanReport
from kmsd.client.report import read_report, write_report

REPORT = ScanReport(
    started=datetime(2026, 11, 23, 12, 4, 11, 123000, UTC),
    finished=datetime(2026, 11, 23, 12, 4, 13, 0, UTC),
    cluster_id=(1 << 64) - 2,
    prefix="/registry",
    revision=4711,
    objects=1207,
    unknown=3,
    uses=(
        KeyInEtcd("0x00ff10", 1000),
        KeyInEtcd("k8s-kek", 1, by_label=True),
        KeyInEtcd("k8s-kek", 200),
        KeyInEtcd("00ff10", 3, label="k8s-kek"),
    ),
)


def test_what_is_written_is_read_back() -> None:
    data = write_report(REPORT)
    assert data.isascii()
    assert read_report(data) == REPORT


@given(
    st.integers(0, (1 << 64) - 1),
    st.dictionaries(
        st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.booleans()),
        st.integers(1, 1 << 40),
        max_size=4,
    ),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - as it asks for
)
def test_any_report_is_read_back(cluster_id: int, uses: dict[tuple[str, bool], int], moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    found = tuple(KeyInEtcd(key, objects, by_label) for (key, by_label), objects in uses.items())
    report = ScanReport(moment, moment, cluster_id, "/registry", 1, sum(uses.values()), 0, found)
    assert read_report(write_report(report)) == report


def test_a_label_beside_is_written_only_where_there_is_one() -> None:
    """So that an older kmsctl reads what it can understand."""
    uses = json.loads(write_report(REPORT))["uses"]
    assert ["label" in each for each in uses] == [False, False, False, True]


def _use(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["uses"][0]
    return found


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "kind": lambda d: d.update(kind="other"),
    "no kind": lambda d: d.pop("kind"),
    "version": lambda d: d.update(version=2),
    "extra": lambda d: d.update(extra=1),
    "no objects": lambda d: d.pop("objects"),
    "objects as text": lambda d: d.update(objects="1207"),
    "objects as a fraction": lambda d: d.update(objects=1207.0),
    "objects as truth": lambda d: d.update(objects=True),
    "too few objects": lambda d: d.update(objects=1206),
    "unknown below nothing": lambda d: d.update(unknown=-1),
    "a huge count": lambda d: d.update(objects=1 << 63),
    "no revision": lambda d: d.update(revision=0),
    "prefix": lambda d: d.update(prefix="registry"),
    "no prefix": lambda d: d.update(prefix=""),
    "a long prefix": lambda d: d.update(prefix="/" + "x" * 1024),
    "cluster id": lambda d: d.update(cluster_id="FF"),
    "cluster id as a number": lambda d: d.update(cluster_id=1),
    "time": lambda d: d.update(started_at="yesterday"),
    "no such day": lambda d: d.update(started_at="2026-02-31T00:00:00.000Z"),
    "another time zone": lambda d: d.update(started_at="2026-11-23T12:04:11.123+01:00"),
    "ends before it begins": lambda d: d.update(finished_at="2026-11-23T12:04:11.122Z"),
    "uses": lambda d: d.update(uses={}),
    "a use that is none": lambda d: d.update(uses=[1]),
    "too many uses": lambda d: d.update(uses=[_use(d)] * 10_001),
    "a use twice": lambda d: d.update(uses=[_use(d), _use(d)]),
    "a use of nothing": lambda d: _use(d).update(objects=0),
    "a use without a key": lambda d: _use(d).update(key=""),
    "half a character": lambda d: _use(d).update(key="\ud800"),
    "a use with more": lambda d: _use(d).update(more=1),
    "a use with less": lambda d: _use(d).pop("by_label"),
    "by_label as a number": lambda d: _use(d).update(by_label=1),
    "a label that is none": lambda d: _use(d).update(label=1),
    "a long label": lambda d: _use(d).update(label="x" * 1025),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_afterwards_is_refused(change: str) -> None:
    document = json.loads(write_report(REPORT))
    CHANGES[change](document)
    with pytest.raises(InvalidRequest) as failed:
        read_report(json.dumps(document).encode())
    assert failed.value.message.startswith("the report of the scan cannot be used: ")
    assert "kmsctl etcd scan --report FILE" in failed.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"kind":"kmsd-etcd-scan","kind":"kmsd-etcd-scan"}',
        write_report(REPORT)[:-10],
        b" " * ((16 << 20) + 1),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_report(data)


def test_times_keep_their_milliseconds_and_lose_what_is_below() -> None:
    finer = replace(REPORT, finished=REPORT.finished.replace(microsecond=999_999))
    assert read_report(write_report(finer)).finished == REPORT.finished.replace(microsecond=999_000)
