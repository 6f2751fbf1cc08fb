"""Labels that people take for one another: blanks or a NUL at an end, another case, one character. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MOST: Final = 3
"""The number of labels that are worth naming."""


def near(label: str, labels: Iterable[str]) -> tuple[str, ...]:
    """Return which of the labels, at most MOST, may be meant where `label` was named and there is none: the same but
    for case and what cannot be seen at its ends first, then those that differ in one character."""
    found = sorted(
        {each for each in labels if each != label and _distance(label, each) < 2},
        key=lambda each: (_distance(label, each), each),
    )
    return tuple(found[:MOST])


def _distance(one: str, other: str) -> int:
    """Return how far two labels are apart. 0: alike but for case and ends; 1: one character is another, missing, too
    many, or swapped; 2: further."""
    one, other = _plain(one), _plain(other)
    if one == other:
        return 0
    if abs(len(one) - len(other)) > 1 or min(len(one), len(other)) < 3:
        return 2
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    # Numbers tell keys apart on purpose: kek-1 and kek-2 are no slips of a finger.
    if any(each.isdigit() for each in left + right):
        return 2
    return 1 if max(len(left), len(right)) == 1 or (len(left) == len(right) == 2 and left == right[::-1]) else 2


def _plain(label: str) -> str:
    return label.strip(" \t\r\n\0\u00a0\u200b\ufeff").casefold()
