"""The View of the moment, and what is wanted of it: what the parts of the store share. Knows no client, no widget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kmstui.view import Numbered, Tail, View, Want

T = TypeVar("T")


class Board:
    """The present View, told to one listener with each change. Used on the event loop alone."""

    def __init__(self, view: View, tell: Callable[[View], None]) -> None:
        self.view = view
        self.wants: frozenset[Want] = frozenset()
        self.wake = asyncio.Event()
        self.asked = False
        self._tell = tell
        self._number = 0

    def publish(self, **changes: Any) -> None:
        """Change these fields of the View and tell of it."""
        self.view = replace(self.view, **changes)
        self._tell(self.view)

    def ask_now(self) -> None:
        """Have the next read begin at once."""
        self.asked = True
        self.wake.set()

    def longer(self, tail: Tail[T], new: Sequence[T], dropped: int, most: int) -> Tail[T]:
        """Return a tail with new items at its end, numbered like no other, and the last `most` of all."""
        numbered = tuple(Numbered(self._number + at, item) for at, item in enumerate(new, 1))
        self._number += len(new)
        return Tail((*tail.items, *numbered)[-most:], tail.dropped + dropped, following=True)
