"""How wide the columns of a table are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len


@dataclass(frozen=True)
class Column:
    """least: columns of the terminal below which it is not cut; None: it is never cut.
    optional: left out first when room is short."""

    title: str
    least: int | None = None
    optional: bool = False
    right: bool = False


def fit(columns: Sequence[Column], natural: Sequence[int], room: int, gap: int) -> tuple[tuple[int, int], ...]:
    """Which columns are shown and how wide: (index, width) each.

    natural: width of the widest content of each, title included; 0: nothing in it, not shown. gap: what lies
    between columns. Earlier columns grow to their natural width first.
    """
    least = [min(want, column.least or want) for column, want in zip(columns, natural, strict=True)]
    shown = [index for index, want in enumerate(natural) if want]
    for index in reversed(shown):
        if sum(least[each] + gap for each in shown) <= room:
            break
        if columns[index].optional:
            shown = [each for each in shown if each != index]
    spare = max(0, room - sum(least[each] + gap for each in shown))
    widths = []
    for index in shown:
        more = min(spare, natural[index] - least[index])
        spare -= more
        widths.append((index, least[index] + more))
    return tuple(widths)


def natural_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> tuple[int, ...]:
    widths = []
    for index, column in enumerate(columns):
        widest = max((cell_len(row[index]) for row in rows), default=0)
        widths.append(max(widest, cell_len(column.title)) if widest or not column.optional else 0)
    return tuple(widths)
