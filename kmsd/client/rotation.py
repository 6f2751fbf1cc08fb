"""The parts of a rotation that is followed: its keys, its stages, and what was seen of nodes and of etcd. Pure.

All of it comes from what kmsd and a scan of etcd tell, so that whoever looks later, or elsewhere, sees the same:
nothing is remembered but in kmsd and on its token. Knows neither how a status is asked for nor how anything is shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from kmsd.client.model.keys import Key, KeyState
from kmsd.client.model.rotation import Rotation
from kmsd.client.model.scan import KeyInEtcd, ScanReport
from kmsd.client.model.status import Status
from kmsd.client.names import strangers, under

_ROTATED = re.compile(r"@([0-9]{8}T[0-9]{6})Z$")


class StageName(StrEnum):
    """The stages, in their order."""

    MADE = "made"
    LABELS = "labels"
    NODES = "nodes"
    APISERVERS = "apiservers"
    REWRITE = "rewrite"
    SCAN = "scan"
    RETIRE = "retire"


class StageProgress(StrEnum):
    """The ways in which a stage, or a node in it, can stand."""

    DONE = "done"
    ACTIVE = "active"
    """Under way, or waited for."""
    WAITING = "waiting"
    """Not begun: what comes before is not done."""
    STUCK = "stuck"
    """Somebody should look: it does not get on by itself."""


TITLES: Final = {
    StageName.MADE: "new key made",
    StageName.LABELS: "labels moved",
    StageName.NODES: "every node writes with it",
    StageName.APISERVERS: "kube-apiservers follow",
    StageName.REWRITE: "rewrite stored objects",
    StageName.SCAN: "scan etcd",
    StageName.RETIRE: "retire the old key",
}


@dataclass(frozen=True)
class KeyTurnover:
    """A rotation that is followed. old: None if nothing wrote before. started: None if nobody knows."""

    write_label: str
    old: Key | None
    new: Key
    started: datetime | None = None


@dataclass(frozen=True)
class NodeSighting:
    """A look at one node. status: None if it gave none, and then `trouble` says why."""

    node: str
    status: Status | None
    trouble: str = ""


@dataclass(frozen=True)
class NodeView:
    """A node in a stage. at: when it was done; None if nobody knows. seen: by when it was, at the latest. due: until
    when it is expected; text: in words, without a time."""

    node: str
    progress: StageProgress
    text: str
    at: datetime | None = None
    due: datetime | None = None
    seen: datetime | None = None


@dataclass(frozen=True)
class Stage:
    """A stage of the timeline. text: one sentence without a full stop; empty if the nodes or commands say all.
    commands: to be copied. due: when it can be done, if not before. busy: something is under way for it now."""

    step: StageName
    progress: StageProgress
    text: str = ""
    nodes: tuple[NodeView, ...] = ()
    commands: tuple[str, ...] = ()
    due: datetime | None = None
    busy: bool = False

    @property
    def title(self) -> str:
        return TITLES[self.step]


@dataclass(frozen=True)
class Timeline:
    """The stages of a rotation as they stand at one moment."""

    turn: KeyTurnover
    stages: tuple[Stage, ...]

    def __getitem__(self, step: StageName) -> Stage:
        return next(each for each in self.stages if each.step is step)

    @property
    def finished(self) -> bool:
        return all(each.progress is StageProgress.DONE for each in self.stages)

    @property
    def present(self) -> Stage | None:
        """The first stage that is not done."""
        return next((each for each in self.stages if each.progress is not StageProgress.DONE), None)


@dataclass(frozen=True)
class Event:
    """A change between two timelines. node: empty if it is about the whole stage. The rest as there."""

    step: StageName
    node: str
    progress: StageProgress
    text: str
    at: datetime | None = None
    commands: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return TITLES[self.step]


@dataclass(frozen=True)
class Stored:
    """The objects that etcd held at the last scan. resources: those with objects that still need the old key, as
    kubectl calls them and safe to put into a command. keys: all of kmsd's; none if they are not known."""

    report: ScanReport
    resources: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()

    def left(self, turn: KeyTurnover) -> int:
        """Return the number of objects that need the old key, or name a label that it had and may need it."""
        return 0 if turn.old is None else under(self.report, turn.old)

    @cached_property
    def strangers(self) -> tuple[KeyInEtcd, ...]:
        """The stored keys under a name that no key has, any of which may be the old one."""
        return strangers(self.report, self.keys) if self.keys else ()


def turn_of(rotation: Rotation, write_label: str, now: datetime) -> KeyTurnover | None:
    """Return the rotation that kmsd answered; None if there is no new key, as in a dry run."""
    if rotation.new is None:
        return None
    started = now if rotation.rotated else None
    return KeyTurnover(write_label, rotation.old, rotation.new, _rotated_at(rotation.old) or started)


def unfinished(status: Status, keys: Iterable[Key]) -> KeyTurnover | None:
    """Return the last rotation, if its old key is not retired yet: what to resume. None if there is none.

    keys: all of kmsd's. The old key is the one that kmsd wrote with before; if it has started since, the last that
    lost the label, provided that it did so after the write key was made. What earlier rotations left is no reason to
    think that the last one is not finished.
    """
    write = status.write_key
    if write is None:
        return None
    label, previous = status.write_label, status.following.previous_key_id
    left = [
        key
        for key in keys
        if key.label.startswith(f"{label}@")
        and key.state in (KeyState.READABLE, KeyState.UNUSABLE)
        and key.seals
        and key.key_id != write.key_id
        and (key.key_id == previous or _lost_to(key, write))
    ]
    if not left:
        return None
    old = max(left, key=lambda key: (key.key_id == previous, key.label, key.key_id))
    return KeyTurnover(label, old, write, _rotated_at(old))


def _lost_to(old: Key, write: Key) -> bool:
    """Return whether the old key lost the write label to this one: labels tell the second, key ids the millisecond."""
    moved = _rotated_at(old)
    return moved is not None and (write.created is None or moved >= write.created.replace(microsecond=0))


def _rotated_at(key: Key | None) -> datetime | None:
    """Return when a key lost the write label, from the label it got then."""
    found = _ROTATED.search(key.label) if key is not None else None
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


SCAN_COMMAND: Final = "kmsctl etcd scan --report scan.json"


def rewrite_command(resource: str) -> str:
    """Return the command that rewrites a resource. resource: as kubectl calls it."""
    return f"kubectl get {resource} --all-namespaces -o json | kubectl replace -f -"


def retire_command(turn: KeyTurnover, report: str = "") -> str:
    """Return the command that retires the old key. report: the file with the scan's result, if there is one."""
    key = turn.old.key_id or turn.old.label if turn.old else ""
    return f"kmsctl keys retire {shlex.quote(key)}" + (f" --report {shlex.quote(report)}" if report else "")


def short(key: Key | None) -> str:
    """Return the first digits of the hash that kube-apiserver logs, which tell keys apart on a screen."""
    return key.key_id_sha256[:8] if key is not None and key.key_id_sha256 else "?"


def counted(objects: int) -> str:
    """Return a number of objects in words."""
    return "1 object" if objects == 1 else f"{objects:,} objects"
