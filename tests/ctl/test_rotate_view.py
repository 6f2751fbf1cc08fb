"""How a rotation looks, to the letter: on a screen of any size, as lines, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from syrupy.assertion import SnapshotAssertion

from kmsctl.output import Span
from kmsctl.rotate import view
from kmsctl.text import width
from kmsd.client import Rotation, RotationStep
from kmsd.client.rotation import NodeSighting, Stored, Timeline
from kmsd.client.timeline import FOLLOW, news, timeline
from tests.ctl.turning import (
    NEW,
    NEW_ID,
    OLD,
    OLD_ID,
    TURN,
    at,
    before,
    followed,
    key,
    report,
    seen,
    status,
)

LATER = FOLLOW.total_seconds()
DONE = status(following=followed(50))
ALL = [seen("cp-1", DONE), seen("cp-2", DONE), seen("cp-3", DONE)]
CASES: dict[str, tuple[Timeline, float]] = {
    "just moved": (timeline(TURN, [seen("cp-1"), seen("cp-2", before())], at(22)), 22),
    "one follows": (timeline(TURN, [seen("cp-1", DONE), seen("cp-2")], at(58)), 58),
    "a node is away": (
        timeline(
            TURN, [seen("cp-1", DONE), NodeSighting("cp-2", None, "kmsd does not run: there is no socket /x")], at(58)
        ),
        58,
    ),
    "nobody polls": (timeline(TURN, [seen("cp-1")], at(300)), 300),
    "objects are left": (
        timeline(
            TURN,
            ALL,
            at(LATER),
            stored=Stored(report(at(LATER), {OLD_ID: 1204, NEW_ID: 3}), ("configmaps", "secrets")),
            scanning=True,
            scans=True,
        ),
        LATER,
    ),
    "too early for a proof": (
        timeline(TURN, ALL, at(200), stored=Stored(report(at(190), {NEW_ID: 3})), scans=True),
        200,
    ),
    "not understood": (
        timeline(TURN, ALL, at(LATER), stored=Stored(report(at(LATER), {}, unknown=2)), scans=True),
        LATER,
    ),
    "may be retired": (timeline(TURN, ALL, at(LATER), stored=Stored(report(at(LATER), {NEW_ID: 3}))), LATER),
    "retired": (
        timeline(TURN, ALL, at(LATER), stored=Stored(report(at(LATER), {NEW_ID: 3})), retired=True),
        LATER,
    ),
}


def text(lines: Sequence[Sequence[Span]]) -> str:
    return "\n".join("".join(part for part, _ in line).rstrip() for line in lines)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("case", CASES)
def test_the_timeline_reads_the_same_forever(snapshot: SnapshotAssertion, case: str, columns: int) -> None:
    found, seconds = CASES[case]
    assert text(view.picture(found, at(seconds), columns)) == snapshot


@pytest.mark.parametrize("case", CASES)
def test_on_a_small_screen_what_goes_on_stays_in_sight(case: str) -> None:
    found, seconds = CASES[case]
    for columns, lines in ((80, 24), (60, 16), (40, 14)):
        shown = text(view.screen(found, at(seconds), columns, lines, "reading etcd", "q leaves")).splitlines()
        assert len(shown) == lines
        assert shown[-1] == "q leaves"
        if found.present is not None:
            assert any(found.present.title in line for line in shown)
    assert text(view.screen(found, at(seconds), 80, 1, "", "q leaves")) == "q leaves"


@pytest.mark.parametrize("case", CASES)
def test_no_line_but_a_command_or_a_key_is_wider_than_the_screen(case: str) -> None:
    found, seconds = CASES[case]
    for line in text(view.picture(found, at(seconds), 60)).splitlines():
        assert width(line) <= 60 or "kubectl" in line or "kmsctl" in line or "sha256:" in line


@pytest.mark.parametrize("case", CASES)
def test_events_read_the_same_forever(snapshot: SnapshotAssertion, case: str) -> None:
    found, seconds = CASES[case]
    events = news(None, found)
    assert "\n".join(view.event_lines(each, at(seconds)) for each in events) == snapshot(name="lines")
    documents = [view.event_document(each, at(seconds)) for each in events]
    assert "\n".join(map(json.dumps, documents)) == snapshot(name="json")


STEPS = (
    RotationStep("generate", NEW_ID, NEW.key_id_sha256, "", "k8s-kek.pending", "default", True, "make a key"),
    RotationStep("relabel", NEW_ID, NEW.key_id_sha256, "k8s-kek.pending", "k8s-kek", "default", True, "move it"),
    RotationStep("relabel", OLD_ID, OLD.key_id_sha256, "k8s-kek", OLD.label, "default", True, "move it away"),
)


@pytest.mark.parametrize("wide", [False, True])
def test_what_was_done_reads_the_same_forever(snapshot: SnapshotAssertion, wide: bool) -> None:
    assert view.tables(Rotation(STEPS, OLD, NEW, rotated=True), wide=wide) == snapshot
    assert view.tables(Rotation((), None, None, rotated=False), wide=wide) == ""


def test_documents_read_the_same_forever(snapshot: SnapshotAssertion) -> None:
    done = view.document(Rotation(STEPS, OLD, NEW, rotated=True), dry_run=False)
    begun = view.turn_document(TURN, rotated=True)
    assert json.dumps(done, indent=1) == snapshot(name="rotation")
    assert json.dumps(begun, indent=1) == snapshot(name="begun")


def test_what_a_token_holds_reaches_no_terminal_unescaped() -> None:
    evil = "k\x1b[2J\u202e"
    old, new = key(f"{evil}@20261123T120411Z", evil), replace(NEW, key_id=f"{evil}2", token_label=evil)
    turn = replace(TURN, write_label=evil, old=old, new=new)
    third = seen(evil, status(key(evil, "third" + evil)))
    found = timeline(turn, [third, NodeSighting(evil + "2", None, evil)], at(5), retired=True)
    shown = text(view.picture(found, at(5), 80))
    shown += "".join(view.event_lines(each, at(5)) for each in news(None, found))
    shown += view.tables(Rotation(STEPS, old, new, rotated=True), wide=True)
    assert all(each.isprintable() or each == "\n" for each in shown)
