"""Keys in their turn: each goes to what has the focus once the one before it has done its work.

Textual hands a key to the focused widget at once, and does what is bound to it only after it has come up through all
its parents. Of "/abc" typed fast, or pasted by tmux, the letters would then reach the table, where they mean commands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from textual.app import App
from textual.events import Event
from textual.message import Message
from textual.widget import Widget

LOOK, WAIT = 0.05, 5.0
"""Seconds between looks whether the widget that a key went to is still there, and after which it counts as dealt with,
whatever became of it."""
_MOUNT_PAUSE = 0.005
_ROUNDS = 2
"""The first round passes when the key has come up to the app; in the second so have messages that it gave rise to."""


@dataclass
class Passed(Message):
    """A message that follows a key on its way up. turn: which key's."""

    turn: int
    rounds: int


class Typeahead:
    """A queue of keys. deliver: gives an event to Textual."""

    def __init__(self, app: App[Any], deliver: Callable[[Event], Awaitable[None]]) -> None:
        self._app = app
        self._deliver = deliver
        self._waiting: deque[Event] = deque()
        self._turn = 0
        self._target: Widget | None = None
        self._late: asyncio.TimerHandle | None = None

    async def take(self, event: Event) -> None:
        """Take a key, or a paste: now, or when it is its turn."""
        if self._target is None:
            await self._begin(event)
        else:
            self._waiting.append(event)

    def passed(self, message: Passed) -> None:
        """Note that a key has come up to the app."""
        if message.turn != self._turn:
            return
        if message.rounds > 1:
            self._follow(message.rounds - 1)
        else:
            self._end()

    async def _begin(self, event: Event) -> None:
        self._turn += 1
        self._target = self._app.focused or self._app.screen
        self._look_again(monotonic() + WAIT)
        await self._deliver(event)
        self._follow(_ROUNDS)

    def _look_again(self, end: float) -> None:
        self._late = asyncio.get_running_loop().call_later(LOOK, self._look, end)

    def _look(self, end: float) -> None:
        target = self._target
        if target is None or not target.is_attached or not target.is_running or monotonic() > end:
            self._end()
        else:
            self._look_again(end)

    def _follow(self, rounds: int) -> None:
        if self._target is None or not self._target.post_message(Passed(self._turn, rounds)):
            self._end()

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        # After what the key has put off itself: Textual moves the focus so.
        self._app.call_later(self._next, self._turn)

    async def _next(self, turn: int) -> None:
        app = self._app
        if turn != self._turn or self._target is None or not app.is_running:
            return
        if not app.screen.is_mounted:
            # A dialog that is opening: what is typed is meant for it.
            app.set_timer(_MOUNT_PAUSE, lambda: self._next(turn))
            return
        self._target = None
        if self._waiting:
            await self._begin(self._waiting.popleft())
