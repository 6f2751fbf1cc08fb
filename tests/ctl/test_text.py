"""Widths, escapes, durations and ages."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsctl.output import table
from kmsctl.text import age, width
from kmsd.client import escape
from kmsd.client.durations import parse_duration

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("30s", 30),
        ("2m", 120),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("24h", 86400),
        ("0.25", 0.25),
    ],
)
def test_durations_as_go_writes_them(text: str, seconds: float) -> None:
    assert math.isclose(parse_duration(text), seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "s", "1x", "1d", "nan", "inf", "1e3", "25h", "1 s", "٣s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a duration (is written|must be)"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (3600, "60m"),
        (9000, "2h30m"),
        (86400, "24h"),
        (200000, "2d"),
    ],
)
def test_ages_as_kubectl_shows_them(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_an_age_is_never_negative_and_may_be_unknown() -> None:
    assert age(NOW + timedelta(seconds=5), NOW) == "0s"
    assert age(None, NOW) == "-"


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_is_left_alone(text: str) -> None:
    assert escape(text).isprintable()
    if text.isprintable():
        assert escape(text) == text


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("鍵", 2), ("ключ", 4), ("e\u0301", 1), ("\uff21\uff22", 4)])
def test_width_is_what_a_terminal_takes(text: str, columns: int) -> None:
    assert width(text) == columns


def test_an_empty_cell_is_a_dash_and_no_line_ends_in_blanks() -> None:
    assert table(("A", "B"), [("long cell", ""), ("", "x")]) == "A           B\nlong cell   -\n-           x"
