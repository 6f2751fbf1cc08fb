"""Choose the keys that have series of their own, of ten thousand that may be in use, so that none is counted twice.

A use is counted in one series, that of its key or that of all others together, and stays there: a key that gets a
series of its own begins it at zero, and one that loses it takes its count with it. So the series of all others never
decreases, and the increase of all of them is the number of uses. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from heapq import nlargest
from typing import Final

MOST: Final = 50
"""Keys beside the write keys that have series of their own."""

Uses = tuple[int, int]
"""Encrypts and decrypts."""
_NONE: Final = (0, 0)


class KeySeries:
    """The keys with series of their own, from one scrape to the next. most: as MOST."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._begun: dict[str, Uses] = {}
        """The uses that each key with a series had when it got it."""
        self._left: Uses = _NONE
        """The uses in series that there are no more."""
        self._before: Mapping[str, Uses] = {}
        """The uses of each key at the scrape before."""

    def look(self, counts: Mapping[str, Uses], forgotten: Uses, write: Collection[str]) -> tuple[dict[str, Uses], Uses]:
        """Return the uses in the series of each key that has one, by key id, and those of all others together.

        counts: uses of each key since kmsd started, by key id. forgotten: of keys that are not among them any more.
        write: ids of keys that have one in any case.
        """
        for key_id in [each for each in self._begun if min(_less(counts.get(each, _NONE), self._before[each])) < 0]:
            self._drop(key_id)
            self._before = {**self._before, key_id: _NONE}  # forgotten meanwhile, and perhaps used again
        for key_id in write:
            if key_id in counts:
                self._add(key_id)
        self._choose(counts, write)
        own = {key_id: _less(counts[key_id], begun) for key_id, begun in self._begun.items()}
        total = _sum((forgotten, *counts.values()))
        self._before = counts
        return own, _less(total, _sum((self._left, *own.values())))

    def _choose(self, counts: Mapping[str, Uses], write: Collection[str]) -> None:
        """Give series to the keys that are used most. One that has a series loses it to a key with twice its uses, so
        that two which are used alike do not take turns."""
        held = sorted((each for each in self._begun if each not in write), key=lambda each: sum(counts[each]))
        for key_id in held[: max(0, len(held) - self._most)]:
            self._drop(key_id)
        held = held[max(0, len(held) - self._most) :]
        free = self._most - len(held)
        rest = (key_id for key_id, uses in counts.items() if key_id not in self._begun and any(uses))
        for key_id in nlargest(self._most, rest, key=lambda each: sum(counts[each])):
            if free <= 0:
                if not held or sum(counts[key_id]) <= 2 * sum(counts[held[0]]):
                    return
                self._drop(held.pop(0))
            free -= 1
            self._add(key_id)

    def _add(self, key_id: str) -> None:
        self._begun.setdefault(key_id, self._before.get(key_id, _NONE))

    def _drop(self, key_id: str) -> None:
        self._left = _sum((self._left, _less(self._before[key_id], self._begun.pop(key_id))))


def _sum(uses: Collection[Uses]) -> Uses:
    return sum(encrypts for encrypts, _ in uses), sum(decrypts for _, decrypts in uses)


def _less(uses: Uses, other: Uses) -> Uses:
    return uses[0] - other[0], uses[1] - other[1]
