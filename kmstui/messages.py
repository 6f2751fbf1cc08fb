"""The messages by which widgets ask something of the app. They never ask kmsd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from kmsd.client import Filter, Key
from kmstui.action import Action, Done
from kmstui.problem_list import ShownProblem


@dataclass
class Act(Message):
    """A request to do an action. reply: called with what came of it; None: a notification says it."""

    action: Action
    reply: Callable[[Done], None] | None = None


class Changed(Message):
    """The store has a new View. Many of them in a row are drawn once."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Changed)


@dataclass
class Finished(Message):
    """An action has ended, and nobody has said so yet."""

    done: Done


@dataclass
class Open(Message):
    """A request to look at another target."""

    target: str


@dataclass
class LookInto(Message):
    """A request to go to where there is more to see of a trouble: the requests that failed of it, its key, its
    token."""

    trouble: ShownProblem


@dataclass
class ShowRequests(Message):
    """A request to show the calls of one sort."""

    wanted: Filter


@dataclass
class ShowKey(Message):
    """A request to go to a key in the table of keys."""

    key: Key


@dataclass
class ShowRotation(Message):
    """A request to show the rotation of a tenant's key. tenant: its name."""

    tenant: str


@dataclass
class CallersWanted(Message):
    """A request to read who calls for a tenant, from now on. tenant: its name."""

    tenant: str


@dataclass
class Choose(Message):
    """A request to have kmsd tell of the calls of one sort; of all again, if the filter wants all."""

    wanted: Filter


@dataclass
class MechanismsWanted(Message):
    """A request to read what a token can do. token: its name in kmsd's configuration."""

    token: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, MechanismsWanted)
