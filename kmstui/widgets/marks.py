"""Which rows of a table are marked, so that one action is done to all of them. Knows no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 100
"""Rows that may be marked at once: more than anybody reads before agreeing to what is done to them."""


class Marks(Generic[T]):
    """A memory of marked rows by their identity. ident: tells one row from the others."""

    def __init__(self, ident: Callable[[T], str]) -> None:
        self._ident = ident
        self._idents: set[str] = set()

    def __len__(self) -> int:
        return len(self._idents)

    def __contains__(self, item: T) -> bool:
        return bool(self._idents) and self._ident(item) in self._idents

    def of(self, items: Iterable[T]) -> Iterator[T]:
        """Yield those of the items that are marked, in their order."""
        return (item for item in items if item in self) if self._idents else iter(())

    def toggle(self, item: T) -> bool:
        """Mark a row, or take its mark away; return False if MOST rows are marked already."""
        ident = self._ident(item)
        if ident in self._idents:
            self._idents.remove(ident)
        elif len(self._idents) >= MOST:
            return False
        else:
            self._idents.add(ident)
        return True

    def toggle_all(self, items: Sequence[T]) -> bool:
        """Mark these rows, or take their marks away if all have one; return False if not all could be marked."""
        idents = [self._ident(item) for item in items]
        if self._idents.issuperset(idents):
            self._idents.difference_update(idents)
            return True
        for ident in idents:
            if len(self._idents) >= MOST and ident not in self._idents:
                return False
            self._idents.add(ident)
        return True

    def keep(self, items: Iterable[T]) -> None:
        """Forget the marks of rows that are gone."""
        if self._idents:
            self._idents.intersection_update({self._ident(item) for item in items})

    def clear(self) -> None:
        """Take all marks away."""
        self._idents.clear()
