"""Text that a terminal can be trusted with: display widths, ages. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime, timedelta

from kmsd.client import escape


def width(text: str) -> int:
    """Return the columns that escaped text takes in a terminal: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, columns: int) -> str:
    """Return as much of escaped text as fits."""
    if text.isascii():
        return text[: max(0, columns)]
    done = 0
    for index, each in enumerate(text):
        done += _columns(each)
        if done > columns:
            return text[:index]
    return text


def elide(text: str, columns: int) -> str:
    """Return text of at most so many columns: what is left out of a longer one, in its middle, reads "..."."""
    text = escape(text)
    if width(text) <= columns:
        return text
    room = max(0, columns - 3)
    head = cut(text, room - room // 2)
    tail = cut(text[::-1], room // 2)[::-1]
    return f"{head}...{tail}"


def milliseconds(number: float) -> str:
    """Return milliseconds with the digits that matter: 0.052, 1.50, 123."""
    if number < 0.1:
        return f"{number:.3f}"
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


def rate(number: float) -> str:
    """Return a number per second: 0.20, 12.3, 1234."""
    if number < 10:
        return f"{number:.2f}" if number else "0"
    return f"{number:.1f}" if number < 100 else count(round(number))


def sparkline(values: Sequence[float], bars: str) -> str:
    """Return a line of characters of `bars`, from low to high, one for each value; the first for nothing."""
    top = max(values, default=0.0)
    if top <= 0:
        return bars[0] * len(values)
    return "".join(bars[0] if value <= 0 else bars[max(1, round(value / top * (len(bars) - 1)))] for value in values)


def count(number: int) -> str:
    """Return a number with the digits that matter to people: 1234567 as 1.23M."""
    if number < 1000:
        return str(number)
    size = number / 1000
    for unit in ("k", "M", "G"):
        if size < 999.5:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.0f}T"


def age(then: datetime | None, now: datetime) -> str:
    """Return the time since `then` in its one or two largest units, as kubectl shows it; "-" if unknown."""
    if then is None:
        return "-"
    seconds = max(0, int((now - then) / timedelta(seconds=1)))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes}m{rest}s" if minutes < 10 and rest else f"{minutes}m"
    if seconds < 2 * 86400:
        hours, rest = divmod(seconds // 60, 60)
        return f"{hours}h{rest}m" if hours < 10 and rest else f"{hours}h"
    return f"{seconds // 86400}d"


def timestamp(then: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC with milliseconds; None if unknown."""
    return None if then is None else then.strftime("%Y-%m-%dT%H:%M:%S.") + f"{then.microsecond // 1000:03d}Z"
