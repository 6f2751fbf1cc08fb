"""Checks of a node, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kmsd.client import ClientError, Denied

AS_ROOT: Final = "run this as root"


class Outcome(StrEnum):
    """The outcomes of a check of a node."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class NodeCheck:
    """A check of a node. name: a stable word for programs. title: for people. seen: what is there. fix: what to do;
    empty where all is well. denied: whether it was not made for want of rights."""

    name: str
    title: str
    outcome: Outcome
    seen: str
    fix: str = ""
    denied: bool = False


def refused(name: str, title: str, error: ClientError) -> NodeCheck:
    """Return a check for which a call failed."""
    if isinstance(error, Denied):
        return NodeCheck(name, title, Outcome.NOT_CHECKED, error.message, AS_ROOT, denied=True)
    return NodeCheck(name, title, Outcome.FAILED, error.message, error.hint)
