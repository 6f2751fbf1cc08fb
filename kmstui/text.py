"""Text cut to display widths; numbers, ages and times as people read them; filters. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from rich.cells import cell_len
from textual.content import Content

from kmsd.client import Key, KeyType, escape

_TYPES = {KeyType.AES: "AES", KeyType.HMAC: "HMAC", KeyType.RSA: "RSA"}


def width(text: str) -> int:
    """Return the columns of the terminal that a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def shorten(text: str, most: int) -> str:
    """Return at most `most` columns of a text; what is left out at the end is an ellipsis."""
    if width(text) <= most:
        return text
    if text.isascii():
        text = text[: max(0, most - 1)]
    while text and cell_len(text) > most - 1:
        text = text[:-1]
    return f"{text}…" if most > 0 else ""


def shorten_left(text: str, most: int) -> str:
    """Return a text as `shorten`, but keep the end: of paths that is the part that tells."""
    if width(text) <= most:
        return text
    while text and cell_len(text) > most - 1:
        text = text[1:]
    return f"…{text}" if most > 0 else ""


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return the text in exactly so many columns."""
    text = shorten(text, columns)
    fill = " " * (columns - width(text))
    return fill + text if right else text + fill


def hang(text: str, columns: int, indent: int) -> str:
    """Return the text wrapped, each line after the first set in by `indent`, as the first already is."""
    lines = Content(text).wrap(max(1, columns - indent))
    return f"\n{' ' * indent}".join(line.plain.rstrip() for line in lines)


def count(number: float) -> str:
    """Return a whole number, with thousands set apart."""
    return f"{round(number):,}"


_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


def compact(number: int) -> str:
    """Return a number in at most six columns: 812, 9,999, 12 k, 1.3 M."""
    if number < 10_000:
        return f"{number:,}"
    # Half a unit less, so that 999,600 is 1.0 M and not 1,000 k.
    size, unit = next(each for each in _UNITS if number >= each[0] * 0.9995)
    scaled = number / size
    return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"


def plural(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def rate(number: float) -> str:
    """Return a rate per second; small ones keep a digit after the point."""
    return f"{number:.1f}" if 0 < number < 10 else count(number)


def milliseconds(number: float) -> str:
    """Return milliseconds with the unit, to two digits that tell."""
    if number <= 0:
        return "-"
    if number < 0.995:
        return f"{number:.2f} ms"
    return f"{number:.1f} ms" if number < 9.95 else f"{count(number)} ms"


def percent(part: float, whole: float) -> str:
    """Return a share in per cent."""
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return f"{share:.2f} %" if share < 10 else f"{share:.0f} %"


def duration(seconds: float) -> str:
    """Return seconds in their largest unit: 4 s, 12 min, 3 h, 41 days."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h"
    return f"{whole // 86400} days"


def ago(then: datetime | None, now: datetime) -> str:
    """Return how long ago a time is."""
    return f"{duration((now - then).total_seconds())} ago" if then is not None else "at an unknown time"


def age(then: datetime | None, now: datetime) -> str:
    """Return how long ago a time is, for a column that says so in its title; a dash if unknown."""
    return duration((now - then).total_seconds()).replace(" days", " d") if then is not None else "-"


def absolute(then: datetime | None) -> str:
    """Return a time to the second, in UTC; empty if unknown."""
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if then is not None else ""


def clock(then: datetime | None, now: datetime | None = None) -> str:
    """Return the time of day in UTC, with the date before it if that is another day than `now`."""
    if then is None:
        return "-"
    then = then.astimezone(UTC)
    if now is not None and then.date() != now.astimezone(UTC).date():
        return then.strftime("%m-%d %H:%M")
    return then.strftime("%H:%M:%S")


def key_type(key: Key) -> str:
    """Return the type and length of a key."""
    if key.type is KeyType.EC:
        return f"EC-P{key.bits}"
    return f"{_TYPES.get(key.type, 'other')}-{key.bits}"


def short_hash(digest: str) -> str:
    """Return the first 8 digits of a hash, as kube-apiserver logs it whole; a dash if there is none."""
    return escape(digest[:8]) or "-"


def as_json(item: Any) -> str:
    """Return a dataclass as a JSON object with its fields' names."""
    return json.dumps(dataclasses.asdict(item), default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Enum():
            return value.value
    return str(value)


MOST_PATTERN = 200
"""Characters of a filter."""


@dataclass(frozen=True)
class TextFilter:
    """A filter. text: as it was typed: a regular expression, with ! before it for all that does not match."""

    text: str
    pattern: re.Pattern[str]
    inverted: bool

    def keeps(self, fields: str) -> bool:
        """Return whether a row is kept. fields: a line for each, so that ^ and $ mean the ends of each field."""
        return (self.pattern.search(fields) is not None) is not self.inverted


def parse_filter(text: str) -> TextFilter:
    """Raise ValueError, with what is wrong, where, and what is allowed."""
    text = text[:MOST_PATTERN]
    inverted = text.startswith("!")
    expression = text[1:] if inverted else text
    try:
        pattern = re.compile(expression, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        at = f" at character {error.pos + 1 + inverted}" if error.pos is not None else ""
        raise ValueError(f"not a regular expression: {error.msg}{at}; \\ before a sign means the sign") from None
    # "!" alone is the beginning of a filter, and hides nothing yet.
    return TextFilter(text if expression else "", pattern, inverted and bool(expression))
