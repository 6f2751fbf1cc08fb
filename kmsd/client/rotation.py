"""A rotation as a timeline: what has happened, what is awaited and until when, what is left to do. Pure.

Made from what kmsd and a scan of etcd tell, so that whoever looks later, or elsewhere, sees the same: nothing is
remembered but in kmsd and on its token. Knows neither how a status is asked for nor how anything is shown.

What is awaited of kube-apiserver (k8s.io/apiserver, kmsv2, and KEP-3299): it asks for Status about every 60 s while
all is well, takes a new key id from the answer, and makes a new seed with it by an Encrypt at once, or within
3 minutes in older releases. A kube-apiserver that uses v1beta1 alone asks no Status; its next write is an Encrypt.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Final

from kmsd.client.model import Key, KeyInEtcd, KeyState, Rotation, ScanReport, Status
from kmsd.client.names import strangers, under

POLL: Final = timedelta(seconds=60)
"""Between two Status calls of a healthy kube-apiserver."""
SEED: Final = timedelta(minutes=3)
"""The longest time between the Status that showed the new key id and the new seed."""
GRACE: Final = timedelta(seconds=15)
"""The delay after which a poll is said to be missing."""
FOLLOW: Final = timedelta(minutes=5)
"""After the labels moved, in which kmsd takes no scan for a proof: a kube-apiserver that missed a poll may still write
under the old key."""

_NAME_MOST: Final = 64
"""Characters of a stored name that are told; it may be any text."""
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
        and key.type.seals
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


def timeline(
    turn: KeyTurnover,
    sightings: Sequence[NodeSighting],
    now: datetime,
    *,
    stored: Stored | None = None,
    scanning: bool = False,
    scans: bool = False,
    retired: bool = False,
) -> Timeline:
    """Return the stages as they stand. stored: the last scan, if any. scanning: another is under way. scans: whoever
    looks scans by itself; else the command that does it is told. retired: the old key is archived, or gone."""
    stages = list(_moves(turn, sightings, now))
    if turn.old is not None:
        stages += _clearing(turn, stages[-1], stored, scanning=scanning, scans=scans, retired=retired)
    return Timeline(turn, tuple(stages))


def _moves(turn: KeyTurnover, sightings: Sequence[NodeSighting], now: datetime) -> Iterator[Stage]:
    where = f" on {turn.new.token_label}" if turn.new.token_label else ""
    yield Stage(StageName.MADE, StageProgress.DONE, f"{short(turn.new)}{where}")
    moved = "nothing wrote before" if turn.old is None else f"old {short(turn.old)} is now {turn.old.label}"
    yield Stage(StageName.LABELS, StageProgress.DONE, moved)
    writing = tuple(_writes(turn, each) for each in sightings)
    yield Stage(StageName.NODES, _all(writing), nodes=writing)
    following = tuple(_follows(turn, each, now) for each in sightings)
    yield Stage(StageName.APISERVERS, _all(following), nodes=following)


def _all(nodes: Sequence[NodeView]) -> StageProgress:
    """Sum up the nodes: stuck if one is, done if all are; of no node nothing is known."""
    found = {each.progress for each in nodes} or {StageProgress.WAITING}
    for progress in (StageProgress.STUCK, StageProgress.ACTIVE, StageProgress.WAITING):
        if progress in found:
            return progress
    return StageProgress.DONE


def _writes(turn: KeyTurnover, sighting: NodeSighting) -> NodeView:
    status = sighting.status
    if status is None:
        return NodeView(sighting.node, StageProgress.STUCK, sighting.trouble)
    writes = status.write_key
    if writes is None:
        return NodeView(sighting.node, StageProgress.STUCK, f"has no write key: {status.healthz}")
    if writes.key_id == turn.new.key_id:
        return NodeView(sighting.node, StageProgress.DONE, "")
    if turn.old is not None and writes.key_id == turn.old.key_id:
        return NodeView(sighting.node, StageProgress.ACTIVE, "has not looked at the token since")
    return NodeView(
        sighting.node,
        StageProgress.STUCK,
        f"writes with {short(writes)}: another rotation came after this one, or its token is another",
    )


def _follows(turn: KeyTurnover, sighting: NodeSighting, now: datetime) -> NodeView:
    """Return whether the kube-apiserver of one node encrypts with the new key."""
    node = sighting.node
    if sighting.status is None or _writes(turn, sighting).progress is not StageProgress.DONE:
        return NodeView(node, StageProgress.WAITING, "")
    following = sighting.status.following
    first, last = following.first_status, following.last_status
    if following.first_encrypt is not None:
        # A kmsd that has answered only this key may have started after the first call under it.
        at = following.first_encrypt if following.previous_key_id else None
        return NodeView(node, StageProgress.DONE, "", at, seen=following.first_encrypt)
    if first is None:
        since = following.since or _latest(turn.started, sighting.status.started) or now
        return _awaited(node, "next poll", since + POLL, now, _NO_STATUS)
    if not following.previous_key_id and last is not None and last - first >= POLL / 2:
        # This kmsd has never answered another key id, and a kube-apiserver that met a new one would have asked for an
        # Encrypt at once: it had the key before this kmsd started.
        return NodeView(node, StageProgress.DONE, "had the key before this kmsd started", seen=first)
    return _awaited(
        node, "has the new key id, makes a new seed", first + SEED, now, "has made no seed with the new key"
    )


_NO_STATUS: Final = "no Status since: does a kube-apiserver use this kmsd, and which API?"


def _latest(*moments: datetime | None) -> datetime | None:
    return max((each for each in moments if each is not None), default=None)


def _awaited(node: str, text: str, due: datetime, now: datetime, late: str) -> NodeView:
    if now <= due + GRACE:
        return NodeView(node, StageProgress.ACTIVE, text, due=due)
    return NodeView(node, StageProgress.STUCK, late, due=due)


def _clearing(
    turn: KeyTurnover, before: Stage, stored: Stored | None, *, scanning: bool, scans: bool, retired: bool
) -> Iterator[Stage]:
    """Yield the stages from the rewriting to the end of the old key."""
    if retired:
        yield Stage(StageName.REWRITE, StageProgress.DONE)
        yield Stage(
            StageName.SCAN, StageProgress.DONE, _NOTHING_LEFT if stored is not None and not stored.left(turn) else ""
        )
        yield Stage(StageName.RETIRE, StageProgress.DONE, f"{short(turn.old)} is retired")
        return
    ready = before.progress is StageProgress.DONE
    followed = _latest(*(each.seen for each in before.nodes))
    if stored is None or not ready or (followed is not None and stored.report.started < followed):
        # What was counted before every kube-apiserver had followed says nothing about what is written since.
        waiting = StageProgress.ACTIVE if ready else StageProgress.WAITING
        yield Stage(StageName.REWRITE, waiting, commands=(rewrite_command("secrets"),))
        yield Stage(StageName.SCAN, waiting, commands=() if scans else (SCAN_COMMAND,), busy=scanning)
        yield _retire_stage(turn, offered=False)
        return
    left = stored.left(turn)
    yield Stage(
        StageName.REWRITE,
        StageProgress.ACTIVE if left else StageProgress.DONE,
        commands=tuple(map(rewrite_command, stored.resources)) if left else (),
    )
    scan = _scan_stage(turn, stored, left, busy=scanning)
    yield scan if scans or scan.progress is StageProgress.DONE else replace(scan, commands=(SCAN_COMMAND,))
    yield _retire_stage(turn, offered=scan.progress is StageProgress.DONE)


_NOTHING_LEFT: Final = "nothing is under the old key"


def _scan_stage(turn: KeyTurnover, stored: Stored, left: int, *, busy: bool) -> Stage:
    report = stored.report
    if left:
        return Stage(StageName.SCAN, StageProgress.ACTIVE, f"{counted(left)} still under the old key", busy=busy)
    if report.unknown:
        why = f"{counted(report.unknown)} cannot be understood, and may need any key"
        return Stage(StageName.SCAN, StageProgress.STUCK, why, busy=busy)
    if unnamed := stored.strangers:
        objects, name = sum(each.objects for each in unnamed), unnamed[0].key_id
        called = f"{name[:_NAME_MOST]}…" if len(name) > _NAME_MOST else name
        more = len(unnamed) - 1
        others = f" and {'another name' if more == 1 else f'{more} other names'}" if more else ""
        why = f"{counted(objects)} under {called}{others}, which no key has, may need any key"
        return Stage(StageName.SCAN, StageProgress.STUCK, why, busy=busy)
    if turn.started is not None and report.started < turn.started + FOLLOW:
        return Stage(
            StageName.SCAN,
            StageProgress.ACTIVE,
            f"{_NOTHING_LEFT}; once more when no kube-apiserver can write under it any longer",
            due=turn.started + FOLLOW,
            busy=busy,
        )
    return Stage(StageName.SCAN, StageProgress.DONE, _NOTHING_LEFT, busy=busy)


def _retire_stage(turn: KeyTurnover, *, offered: bool) -> Stage:
    if offered:
        return Stage(StageName.RETIRE, StageProgress.ACTIVE, commands=(retire_command(turn),))
    return Stage(StageName.RETIRE, StageProgress.WAITING, "offered when the scan finds nothing that needs it")


def news(before: Timeline | None, after: Timeline) -> tuple[Event, ...]:
    """Return what changed, in order; of the first timeline, all that is not waiting."""
    known: dict[tuple[StageName, str], Event] = {}
    if before is not None:
        known = {(each.step, each.node): each for each in _events(before)}
    return tuple(
        each
        for each in _events(after)
        if known.get((each.step, each.node)) != each
        and (before is not None or each.progress is not StageProgress.WAITING)
    )


def _events(timeline: Timeline) -> Iterator[Event]:
    for stage in timeline.stages:
        for node in stage.nodes:
            yield Event(stage.step, node.node, node.progress, node.text, node.at)
        yield Event(stage.step, "", stage.progress, stage.text, commands=stage.commands)


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
