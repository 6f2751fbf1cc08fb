"""Plots of what happened over time, in characters. Pure: numbers in, text out; knows no colours.

A column is a bucket of time that begins at a multiple of its length, so that a plot moves by whole columns and its
shape stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from math import ceil, floor, log10

from kmsd.client import Second
from kmstui.traffic import stamp

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ZERO = "_"
_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""Bits of U+2800, for the left and the right half of a cell, from the bottom up."""

Values = list[float | None]
Layer = tuple[Sequence[float | None], bool]


def buckets(
    seconds: Sequence[Second], columns: int, span: int, combine: Callable[[Sequence[Second]], float | None]
) -> Values:
    """Return one value for each column, oldest first; None where nothing is known. span: seconds that all columns
    cover."""
    if columns <= 0 or not seconds:
        return [None] * max(0, columns)
    if columns > span:
        return stretched(buckets(seconds, span, span, combine), columns)
    size = span / columns
    last = floor(stamp(seconds[-1].time) / size)
    groups: dict[int, list[Second]] = {}
    for each in seconds:
        back = last - floor(stamp(each.time) / size)
        if back < columns:
            groups.setdefault(columns - 1 - back, []).append(each)
    return [combine(groups[at]) if at in groups else None for at in range(columns)]


def stretched(values: Values, columns: int) -> Values:
    """Return values as so many columns, which are more than there are values."""
    return [values[at * len(values) // columns] for at in range(columns)]


def mean_rate(seconds: Sequence[Second]) -> float:
    """Return the mean of requests per second."""
    return sum(each.requests for each in seconds) / len(seconds)


def error_rate(seconds: Sequence[Second]) -> float:
    """Return the mean of errors per second."""
    return sum(each.errors for each in seconds) / len(seconds)


def median(seconds: Sequence[Second]) -> float | None:
    """Return the median of the seconds' p50, weighed by their requests."""
    total = sum(each.requests for each in seconds)
    return sum(each.p50_ms * each.requests for each in seconds) / total if total else None


def worst(seconds: Sequence[Second]) -> float | None:
    """Return the highest p99."""
    return max((each.p99_ms for each in seconds if each.requests), default=None)


def ceiling(values: Sequence[float | None], least: float) -> float:
    """Return a round number that is not below any value. least: for when they are all small."""
    highest = max((value for value in values if value is not None), default=0.0)
    highest = max(highest, least)
    power = 10.0 ** floor(log10(highest))
    return float(next(step * power for step in _STEPS if step * power >= highest * 0.999))


class CellFill(IntEnum):
    """The fill of one cell of an area. SOME: What a cell of an area shows. SOME: a part of the whole at its foot, and
    the rest of the whole above that."""

    NOTHING = 0
    ZERO = 1
    WHOLE = 2
    SOME = 3
    ALL = 4


def area(values: Sequence[float | None], rows: int, top: float) -> list[str]:
    """Return a filled plot, in eighths of a row, top row first. Zero is a line at the bottom; where nothing is known it
    is blank."""
    heights = [None if value is None else max(1, _eighths(value, rows, top)) for value in values]
    return [
        "".join(" " if height is None else _EIGHTHS[max(0, min(8, height - 8 * row))] for height in heights)
        for row in range(rows - 1, -1, -1)
    ]


def parted(
    values: Sequence[float | None], parts: Sequence[float | None], rows: int, top: float
) -> list[list[tuple[str, CellFill]]]:
    """Return an area as `area` does, each column with a part of it from the bottom as high as it is of the whole, and
    an eighth at least.

    A cell has two colours and its ground: where it would need three, at the end of a column, it is all of what most
    of it is.
    """
    columns = [_column(value, part, rows, top) for value, part in zip(values, parts, strict=True)]
    return [[column[row] for column in columns] for row in range(rows - 1, -1, -1)]


def _column(value: float | None, part: float | None, rows: int, top: float) -> list[tuple[str, CellFill]]:
    """Return the cells of a column from the bottom up."""
    if not value:
        foot = (" ", CellFill.NOTHING) if value is None else (_ZERO, CellFill.ZERO)
        return [foot, *[(" ", CellFill.NOTHING)] * (rows - 1)]
    height = max(1, _eighths(value, rows, top))
    low = min(height, max(1, _eighths(part, rows, top))) if part else 0
    return [_cell(max(0, min(8, height - 8 * row)), max(0, min(8, low - 8 * row))) for row in range(rows)]


def _cell(whole: int, part: int) -> tuple[str, CellFill]:
    if not part:
        return _EIGHTHS[whole], CellFill.WHOLE if whole else CellFill.NOTHING
    if part < whole == 8:
        return _EIGHTHS[part], CellFill.SOME
    return _EIGHTHS[whole], CellFill.ALL if 2 * part >= whole else CellFill.WHOLE


def _eighths(value: float, rows: int, top: float) -> int:
    return round(min(1.0, value / top) * rows * 8)


def linear(values: Sequence[float | None], top: float) -> Values:
    """Return values as shares of the height."""
    return [None if value is None else max(0.0, min(1.0, value / top)) for value in values]


def logarithmic(values: Sequence[float | None], low: int, high: int) -> Values:
    """Return values as shares of the height between two powers of ten; what is less is at the bottom."""
    return [
        None if value is None else max(0.0, min(1.0, (log10(max(value, 1e-9)) - low) / (high - low)))
        for value in values
    ]


def decades(values: Sequence[float | None], least: tuple[int, int]) -> tuple[int, int]:
    """Return the powers of ten, as exponents, that these lie between; at least so far apart."""
    known = [value for value in values if value]
    low, high = least
    if known:
        low = min(low, floor(log10(min(known)) + 1e-9))
        high = max(high, ceil(log10(max(known)) - 1e-9))
    return low, high


def row_of(share: float, rows: int) -> int:
    """Return the row, from the top, that holds a dot at this share of the height."""
    return rows - 1 - round(share * (rows * 4 - 1)) // 4


def braille(layers: Sequence[Layer], rows: int) -> list[list[tuple[str, int]]]:
    """Return several series in one plot, two values to a column: cells of (character, layer), top row first.

    layers: (shares of the height, whether the area under them is filled), the first in front; a cell belongs to the
    first layer that is in it. layer: -1 for an empty cell.
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
            height = round(value * (rows * 4 - 1))
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
    """Return where a line to `height` begins, so that it is joined to the dot before it."""
    if before < height:
        return before + 1
    return before - 1 if before > height else height


def ruler(columns: int, span: int) -> str:
    """Return the line under a plot: how long ago its columns were."""
    line = [" "] * columns
    step = 300 if span >= 600 else 60 if span >= 120 else 15
    for back in (0, span, *range(step, span, step)):
        ago = f"-{back // 60} min" if step >= 60 else f"-{back} s"
        text = ago if back else "now"
        at = columns - round(back * columns / span) - (len(text) if not back else len(text) // 2)
        at = max(0, at) if back else at
        if at >= 0 and at + len(text) <= columns and not "".join(line[max(0, at - 1) : at + len(text) + 1]).strip():
            line[at : at + len(text)] = text
    return "".join(line)


def spark(values: Sequence[float | None]) -> str:
    """Return one line."""
    return area(values, 1, ceiling(values, 1e-9))[0] if values else ""


def meter(part: float, whole: float, columns: int) -> str:
    """Return how much of something is used."""
    share = 0.0 if whole <= 0 else min(1.0, max(0.0, part / whole))
    full = max(round(share * columns), 1 if part > 0 else 0)
    return "█" * full + "░" * (columns - full)
