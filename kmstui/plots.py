"""Plots of what happened over time, in characters. Pure: numbers in, text out; knows no colours.

A column is a bucket of time that begins at a multiple of its length, so that a plot moves by whole columns and its
shape stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, log10

from kmsd.client import Second
from kmstui.traffic import stamp

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""Bits of U+2800, for the left and the right half of a cell, from the bottom up."""

Values = list[float | None]
Layer = tuple[Sequence[float | None], bool]


def buckets(
    seconds: Sequence[Second], columns: int, span: int, combine: Callable[[Sequence[Second]], float | None]
) -> Values:
    """One value for each column, oldest first; None where nothing is known. span: seconds that all columns cover."""
    if columns <= 0 or not seconds:
        return [None] * max(0, columns)
    size = max(1.0, span / columns)
    last = floor(stamp(seconds[-1].time) / size)
    groups: dict[int, list[Second]] = {}
    for each in seconds:
        back = last - floor(stamp(each.time) / size)
        if back < columns:
            groups.setdefault(columns - 1 - back, []).append(each)
    return [combine(groups[at]) if at in groups else None for at in range(columns)]


def mean_rate(seconds: Sequence[Second]) -> float:
    return sum(each.requests for each in seconds) / len(seconds)


def error_rate(seconds: Sequence[Second]) -> float:
    return sum(each.errors for each in seconds) / len(seconds)


def median(seconds: Sequence[Second]) -> float | None:
    """Of the seconds' p50, weighed by their requests."""
    total = sum(each.requests for each in seconds)
    return sum(each.p50_ms * each.requests for each in seconds) / total if total else None


def worst(seconds: Sequence[Second]) -> float | None:
    """The highest p99."""
    return max((each.p99_ms for each in seconds if each.requests), default=None)


def ceiling(values: Sequence[float | None], least: float) -> float:
    """A round number that is not below any value. least: for when they are all small."""
    highest = max((value for value in values if value is not None), default=0.0)
    highest = max(highest, least)
    power = 10.0 ** floor(log10(highest))
    return float(next(step * power for step in _STEPS if step * power >= highest * 0.999))


def area(values: Sequence[float | None], rows: int, top: float) -> list[str]:
    """Filled, in eighths of a row, top row first. Zero is a line at the bottom, nothing known is blank."""
    heights = [None if value is None else max(1, round(min(1.0, value / top) * rows * 8)) for value in values]
    return [
        "".join(" " if height is None else _EIGHTHS[max(0, min(8, height - 8 * row))] for height in heights)
        for row in range(rows - 1, -1, -1)
    ]


def braille(layers: Sequence[Layer], rows: int, top: float) -> list[list[tuple[str, int]]]:
    """Several series in one plot, two values to a column: cells of (character, layer), top row first.

    layers: (values, whether the area under them is filled), the first in front; a cell belongs to the first layer
    that is in it. layer: -1 for an empty cell.
    """
    columns = max((len(values) + 1) // 2 for values, _ in layers)
    bits = [[0] * columns for _ in range(rows)]
    owners = [[-1] * columns for _ in range(rows)]
    for layer, (values, filled) in enumerate(layers):
        before: int | None = None
        for at, value in enumerate(values):
            if value is None:
                before = None
                continue
            height = min(rows * 4 - 1, round(min(1.0, value / top) * (rows * 4 - 1)))
            low = 0 if filled else height if before is None else _towards(before, height)
            for dot in range(min(low, height), max(low, height) + 1):
                row, column = rows - 1 - dot // 4, at // 2
                bits[row][column] |= _DOTS[at % 2][dot % 4]
                if owners[row][column] < 0:
                    owners[row][column] = layer
            before = height
    return [
        [(chr(0x2800 + bit) if bit else " ", owner) for bit, owner in zip(line, owned, strict=True)]
        for line, owned in zip(bits, owners, strict=True)
    ]


def _towards(before: int, height: int) -> int:
    """Where a line to `height` begins, so that it is joined to the dot before it."""
    if before < height:
        return before + 1
    return before - 1 if before > height else height


def ruler(columns: int, span: int) -> str:
    """Under a plot: how long ago its columns were."""
    size = max(1.0, span / max(1, columns))
    line = [" "] * columns
    for minutes in range(0, span // 60 + 1, 5 if span >= 600 else 1):
        text = f"-{minutes} min" if minutes else "now"
        at = columns - round(minutes * 60 / size) - (len(text) if not minutes else len(text) // 2)
        if minutes and at < 0:
            at = 0
        if at >= 0 and at + len(text) <= columns and not "".join(line[max(0, at - 1) : at + len(text) + 1]).strip():
            line[at : at + len(text)] = text
    return "".join(line)


def spark(values: Sequence[float | None]) -> str:
    """One line."""
    return area(values, 1, ceiling(values, 1e-9))[0] if values else ""


def meter(part: float, whole: float, columns: int) -> str:
    """How much of something is used."""
    share = 0.0 if whole <= 0 else min(1.0, max(0.0, part / whole))
    full = max(round(share * columns), 1 if part > 0 else 0)
    return "█" * full + "░" * (columns - full)
