"""An action: a name, the kmsctl command that does the same, and the call; and what came of it.

Knows no widget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmsd.client import ClientError, Filter, Key
from kmstui.view import View

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient


@dataclass(frozen=True)
class ActionOutcome:
    """The outcome of an action. message: one sentence. lines: (name, text) each, for a dialog that stays. effect: what
    it changes in what is shown, given the moment on the steady clock. key: label and id of a key to go to. parts: what
    came of each of several."""

    message: str
    lines: tuple[tuple[str, str], ...] = ()
    effect: Callable[[View, float], View] | None = None
    key: Key | None = None
    bad: bool = False
    parts: tuple[Done, ...] = ()
    requests: Filter | None = None
    """Which requests are to be looked at."""


@dataclass(frozen=True)
class Action:
    """An action on kmsd. words: of the kmsctl command, without its name. changes: whether it changes anything; if so,
    it is refused while reading only. parts: the actions that it is made of, each with a command of its own; empty: it
    is one."""

    name: str
    words: tuple[str, ...]
    call: Callable[[AdminClient], ActionOutcome]
    changes: bool = True
    parts: tuple[Action, ...] = ()
    here: Callable[[], ActionOutcome] | None = None
    """The call itself, if kmsd is not asked: it works without a connection, too."""
    into: str = ""
    """The file that the command's output goes to."""

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """The words of every kmsctl command that does a part of it."""
        return tuple(part.words for part in self.parts) or (self.words,)


@dataclass(frozen=True)
class Done:
    """An action that has been done, or has failed. One of outcome and error is there."""

    action: Action
    outcome: ActionOutcome | None = None
    error: ClientError | None = None
