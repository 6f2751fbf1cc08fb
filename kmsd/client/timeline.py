"""Work out the timeline of a rotation: what has happened, what is awaited and until when, what is left to do. Pure.

What is awaited of kube-apiserver (k8s.io/apiserver, kmsv2, and KEP-3299): it asks for Status about every 60 s while
all is well, takes a new key id from the answer, and makes a new seed with it by an Encrypt at once, or within
3 minutes in older releases. A kube-apiserver that uses v1beta1 alone asks no Status; its next write is an Encrypt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from kmsd.client.model.status import Following
from kmsd.client.rotation import (
    SCAN_COMMAND,
    Event,
    KeyTurnover,
    NodeSighting,
    NodeView,
    Stage,
    StageName,
    StageProgress,
    Stored,
    Timeline,
    counted,
    retire_command,
    rewrite_command,
    short,
)

POLL: Final = timedelta(seconds=60)
"""The time between two Status calls of a healthy kube-apiserver."""
SEED: Final = timedelta(minutes=3)
"""The longest time between the Status that showed the new key id and the new seed."""
GRACE: Final = timedelta(seconds=15)
"""The delay after which a poll is said to be missing."""
FOLLOW: Final = timedelta(minutes=5)
"""The time after the labels moved in which kmsd takes no scan for a proof: a kube-apiserver that missed a poll may
still write under the old key."""
_NAME_MOST: Final = 64
"""Characters of a stored name that are told; it may be any text."""
_NO_STATUS: Final = "no Status since: does a kube-apiserver use this kmsd, and which API?"
_NOTHING_LEFT: Final = "nothing is under the old key"


def timeline(
    turn: KeyTurnover,
    sightings: Sequence[NodeSighting],
    now: datetime,
    *,
    stored: Stored | None = None,
    scanning: bool = False,
    scans: bool = False,
    rewrites: str | None = None,
    retired: bool = False,
) -> Timeline:
    """Return the stages as they stand. stored: the last scan, if any. scanning: another is under way. scans: whoever
    looks scans by itself; else the command that does it is told. rewrites: what whoever looks says of rewriting objects
    by itself; None: it does not, and the command that does it is told. retired: the old key is archived, or gone."""
    stages = list(_moves(turn, sightings, now))
    if turn.old is not None:
        stages += _clearing(
            turn, stages[-1], stored, scanning=scanning, scans=scans, rewrites=rewrites, retired=retired
        )
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
    return follows(node, sighting.status.following, _latest(turn.started, sighting.status.started), now)


def follows(node: str, following: Following, began: datetime | None, now: datetime) -> NodeView:
    """Return how far the kube-apiservers behind a node have followed to the key that it names. began: when it can have
    begun to name it, if `following` does not tell."""
    first, last = following.first_status, following.last_status
    if following.first_encrypt is not None:
        # A kmsd that has answered only this key may have started after the first call under it.
        at = following.first_encrypt if following.previous_key_id else None
        return NodeView(node, StageProgress.DONE, "", at, seen=following.first_encrypt)
    if first is None:
        since = following.since or began or now
        return _awaited(node, "next poll", since + POLL, now, _NO_STATUS)
    if not following.previous_key_id and last is not None and last - first >= POLL / 2:
        # This kmsd has never answered another key id, and a kube-apiserver that met a new one would have asked for an
        # Encrypt at once: it had the key before this kmsd started.
        return NodeView(node, StageProgress.DONE, "had the key before this kmsd started", seen=first)
    return _awaited(
        node, "has the new key id, makes a new seed", first + SEED, now, "has made no seed with the new key"
    )


def _latest(*moments: datetime | None) -> datetime | None:
    return max((each for each in moments if each is not None), default=None)


def _awaited(node: str, text: str, due: datetime, now: datetime, late: str) -> NodeView:
    if now <= due + GRACE:
        return NodeView(node, StageProgress.ACTIVE, text, due=due)
    return NodeView(node, StageProgress.STUCK, late, due=due)


def _clearing(
    turn: KeyTurnover,
    before: Stage,
    stored: Stored | None,
    *,
    scanning: bool,
    scans: bool,
    rewrites: str | None,
    retired: bool,
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
        yield _rewrite_stage(waiting, ("secrets",), rewrites)
        yield Stage(StageName.SCAN, waiting, commands=() if scans else (SCAN_COMMAND,), busy=scanning)
        yield _retire_stage(turn, offered=False)
        return
    left = stored.left(turn)
    if left:
        yield _rewrite_stage(StageProgress.ACTIVE, stored.resources, rewrites)
    else:
        yield Stage(StageName.REWRITE, StageProgress.DONE)
    scan = _scan_stage(turn, stored, left, busy=scanning)
    yield scan if scans or scan.progress is StageProgress.DONE else replace(scan, commands=(SCAN_COMMAND,))
    yield _retire_stage(turn, offered=scan.progress is StageProgress.DONE)


def _rewrite_stage(progress: StageProgress, resources: Sequence[str], rewrites: str | None) -> Stage:
    if rewrites is not None:
        return Stage(StageName.REWRITE, progress, rewrites)
    return Stage(StageName.REWRITE, progress, commands=tuple(map(rewrite_command, resources)))


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
