"""Rotations and their reversal."""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.client.model.keys import Key


@dataclass(frozen=True)
class RotationStep:
    """A step of a rotation. action: "generate", "test" or "relabel". text: in words."""

    action: str
    key_id: str
    key_id_sha256: str
    from_label: str
    to_label: str
    token: str
    done: bool
    text: str


@dataclass(frozen=True)
class Rotation:
    """The result of a rotation. old: None if nothing wrote before. new: None in a dry run. rotated: False in a dry run,
    and when `from_key_id` wrote no more."""

    steps: tuple[RotationStep, ...]
    old: Key | None
    new: Key | None
    rotated: bool


@dataclass(frozen=True)
class Reversion:
    """The result of a revert. previous: the key that wrote before `old`; `new` is on its token. not_undone:
    sentences."""

    steps: tuple[RotationStep, ...]
    old: Key | None
    new: Key | None
    previous: Key | None
    reverted: bool
    not_undone: tuple[str, ...]
