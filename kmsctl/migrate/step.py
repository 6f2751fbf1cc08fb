"""One step of a plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MigrationStep:
    """A thing to do. commands: to be pasted, each a line."""

    title: str
    text: str
    commands: tuple[str, ...] = ()
