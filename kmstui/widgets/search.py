"""Which rows a filter keeps, found piece by piece: ten thousand of them take longer than a key may. Knows no widget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic, TypeVar

from kmstui.text import TextFilter

T = TypeVar("T")

_STEP = 100
"""Rows between two looks at the clock."""


class Texts(Generic[T]):
    """The texts that a filter looks in, made once for each row: that costs more than to look. sought: its fields."""

    def __init__(self, sought: Callable[[T], tuple[str, ...]]) -> None:
        self._sought = sought
        self._known: dict[int, tuple[T, str]] = {}

    def of(self, item: T) -> str:
        found = self._known.get(id(item))
        if found is None or found[0] is not item:
            found = self._known[id(item)] = item, "\n".join(self._sought(item))
        return found[1]

    def forget(self, items: Sequence[T]) -> None:
        """Forget all texts but these, if there are many others."""
        if len(self._known) > 2 * len(items) + _STEP:
            self._known = {id(item): known for item in items if (known := self._known.get(id(item))) is not None}


class Search(Generic[T]):
    """A search through rows. items: the rows. kept: those that the filter keeps, as far as it has come."""

    def __init__(self, items: Sequence[T], texts: Texts[T], wanted: TextFilter) -> None:
        self._items = items
        self._texts = texts
        self._filter = wanted
        self._at = 0
        self.kept: list[T] = []

    @property
    def done(self) -> bool:
        return self._at >= len(self._items)

    def go_on(self, seconds: float) -> None:
        """Go on for about so long; always some rows further."""
        end = perf_counter() + seconds
        keeps, text = self._filter.keeps, self._texts.of
        while not self.done:
            piece = self._items[self._at : self._at + _STEP]
            self.kept.extend(item for item in piece if keeps(text(item)))
            self._at += len(piece)
            if perf_counter() >= end:
                return
