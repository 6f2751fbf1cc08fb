"""The columns that a table is made of, and how wide its columns are. Pure; knows nothing of what the rows mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kmsd.client import escape
from kmstui.styles import Colour
from kmstui.text import width
from kmstui.view import Moment

T = TypeVar("T")

SAMPLE = 200
"""Rows that are looked at to find how wide a column is."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table. text: of the cell. least: columns of the terminal below which it is not cut; None: it is
    never cut. fixed: its width where that must not depend on what is in it, as for ages. optional: left out where room
    is short. order: what the rows are sorted by; None: not by this column. falling: sorted largest first to begin
    with."""

    title: str
    text: Callable[[T, Moment], str]
    least: int | None = None
    fixed: int | None = None
    optional: bool = False
    right: bool = False
    colour: Callable[[T], Colour] | None = None
    order: Callable[[T], Any] | None = None
    falling: bool = False


@dataclass(frozen=True)
class ItemKind(Generic[T]):
    """A kind of things, and how they are listed. name: How things of one sort are listed. name: plural, for the title.
    ident: tells one from the others, and stays. sought: what the filter looks in. copied: what `c` copies, and what it
    is called. data: what `y` copies as JSON; None: the item itself. faint: whether the row is shown dimmed."""

    name: str
    columns: tuple[Column[T], ...]
    ident: Callable[[T], str]
    sought: Callable[[T], tuple[str, ...]]
    copied: Callable[[T], str]
    copied_name: str
    data: Callable[[T], Any] | None = None
    faint: Callable[[T], bool] | None = None
    order: tuple[str, bool] | None = None
    """The order to begin with: a column's title, and whether the largest come first; None: as they come."""
    command: tuple[str, ...] = ()
    """Words of the kmsctl command that lists the same."""
    markable: bool = False
    """Whether several rows can be marked for one action."""
    tail: bool = False
    """Newest last, and what is new is followed as long as the cursor is on the last row."""


def fit(columns: Sequence[Column[Any]], natural: Sequence[int], room: int, gap: int) -> tuple[tuple[int, int], ...]:
    """Return which columns are shown and how wide: (index, width) each.

    natural: width of the widest content of each, title included; 0: nothing in it, not shown. gap: what lies
    between columns. Earlier columns grow to their natural width first.
    """
    least = [min(want, column.least or want) for column, want in zip(columns, natural, strict=True)]
    wanted = [index for index, want in enumerate(natural) if want]
    shown = [index for index in wanted if not columns[index].optional]
    for index in wanted:
        # The first ones first, and after one that is too wide the narrower ones.
        more = sorted([*shown, index])
        if columns[index].optional and sum(least[each] + gap for each in more) - gap <= room:
            shown = more
    spare = max(0, room + gap - sum(least[each] + gap for each in shown))
    widths = []
    for index in shown:
        growth = min(spare, natural[index] - least[index])
        spare -= growth
        widths.append((index, least[index] + growth))
    return tuple(widths)


def natural_widths(columns: Sequence[Column[T]], items: Sequence[T], moment: Moment) -> tuple[int, ...]:
    """Return the widths that columns want. Of many items only a sample is looked at; what is wider is cut."""
    step = max(1, len(items) // SAMPLE)
    sample = items[::step]
    return tuple(_natural(column, sample, moment) for column in columns)


def _natural(column: Column[T], items: Sequence[T], moment: Moment) -> int:
    # One more for the mark of the sorted column.
    title = width(column.title) + (1 if column.order is not None else 0)
    if column.fixed is not None:
        return max(column.fixed, title)
    widest = max((width(escape(column.text(item, moment))) for item in items), default=0)
    return max(widest, title) if widest or not column.optional else 0
