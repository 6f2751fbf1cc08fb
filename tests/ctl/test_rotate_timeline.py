"""The timeline of a rotation: from what kmsd and a scan tell, what is done, awaited, stuck, and to be done."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmsd.client import Following, KeyInEtcd, KeyState, Rotation
from kmsd.client.rotation import (
    Event,
    KeyTurnover,
    NodeSighting,
    NodeView,
    StageName,
    StageProgress,
    Stored,
    Timeline,
    retire_command,
    turn_of,
    unfinished,
)
from kmsd.client.timeline import FOLLOW, news, timeline
from tests.ctl.turning import (
    MOVED,
    NEW,
    NEW_ID,
    OLD,
    OLD_ID,
    OLD_LABEL,
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
CLEAN = Stored(report(at(LATER), {NEW_ID: 1204}))


def shape(found: Timeline) -> str:
    """One letter for the progress of each stage."""
    return "".join(each.progress.value[0] for each in found.stages)


def view(found: Timeline, step: StageName, node: str = "cp-1") -> NodeView:
    return next(each for each in found[step].nodes if each.node == node)


def test_a_rotation_that_nobody_has_noticed_waits_for_the_next_poll() -> None:
    found = timeline(TURN, [seen()], at(22))
    assert shape(found) == "dddawww"
    awaited = view(found, StageName.APISERVERS)
    assert (awaited.progress, awaited.text, awaited.due) == (StageProgress.ACTIVE, "next poll", at(60))
    assert found.present is found[StageName.APISERVERS]
    assert not found.finished


def test_a_node_that_has_not_looked_at_the_token_holds_the_rest_up() -> None:
    found = timeline(TURN, [seen("cp-1", status(following=followed())), seen("cp-2", before())], at(5))
    assert shape(found) == "ddawwww"
    assert view(found, StageName.NODES, "cp-2").progress is StageProgress.ACTIVE
    assert view(found, StageName.APISERVERS, "cp-1").progress is StageProgress.DONE
    assert view(found, StageName.APISERVERS, "cp-2").progress is StageProgress.WAITING


@pytest.mark.parametrize(
    ("sighting", "words"),
    [
        (NodeSighting("cp-1", None, "kmsd does not run: there is no socket /x"), "no socket /x"),
        (seen("cp-1", status(None)), "has no write key: no key with the label"),
        (seen("cp-1", status(key("k8s-kek", "third", KeyState.WRITE))), "another rotation"),
    ],
)
def test_a_node_that_somebody_must_look_at_is_stuck_and_says_why(sighting: NodeSighting, words: str) -> None:
    found = timeline(TURN, [sighting], at(5))
    assert shape(found) == "ddswwww"
    assert words in view(found, StageName.NODES).text


def test_a_status_with_the_new_key_id_starts_the_seeds_timer() -> None:
    following = Following(at(40), at(40), at(40), previous_key_id=OLD_ID)
    found = view(timeline(TURN, [seen("cp-1", status(following=following))], at(41)), StageName.APISERVERS)
    assert (found.progress, found.due) == (StageProgress.ACTIVE, at(40 + 180))
    late = view(timeline(TURN, [seen("cp-1", status(following=following))], at(40 + 196)), StageName.APISERVERS)
    assert (late.progress, late.text) == (StageProgress.STUCK, "has made no seed with the new key")


def test_an_encrypt_with_the_new_key_is_the_end_of_waiting() -> None:
    found = timeline(TURN, [seen("cp-1", status(following=followed(50)))], at(51))
    assert shape(found) == "ddddaaw"
    assert view(found, StageName.APISERVERS).at == at(50)


def test_v1beta1_has_no_status_and_is_done_with_its_first_encrypt() -> None:
    following = Following(at(9), None, None, at(9), at(9), OLD_ID)
    assert shape(timeline(TURN, [seen("cp-1", status(following=following))], at(10))) == "ddddaaw"


def test_a_poll_that_does_not_come_is_said_to_be_missing() -> None:
    assert view(timeline(TURN, [seen()], at(75)), StageName.APISERVERS).progress is StageProgress.ACTIVE
    late = view(timeline(TURN, [seen()], at(76)), StageName.APISERVERS)
    assert late.progress is StageProgress.STUCK
    assert "no Status since" in late.text


def test_a_kmsd_that_started_after_the_move_waits_from_its_own_start() -> None:
    restarted = status(following=Following(), started=at(500))
    assert view(timeline(TURN, [seen("cp-1", restarted)], at(510)), StageName.APISERVERS).due == at(560)


def test_a_kube_apiserver_that_had_the_key_before_kmsd_restarted_is_not_waited_for() -> None:
    once = Following(at(500), at(500), at(500))
    again = Following(at(500), at(500), at(560))
    assert shape(timeline(TURN, [seen("cp-1", status(following=once))], at(501))) == "dddawww"
    assert shape(timeline(TURN, [seen("cp-1", status(following=again))], at(561))) == "ddddaaw"


def test_a_scan_that_finds_objects_under_the_old_key_says_how_to_rewrite_them() -> None:
    stored = Stored(report(at(LATER), {OLD_ID: 1200, NEW_ID: 5}, labels=4), ("configmaps", "secrets"))
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 5), stored=stored)
    assert shape(found) == "ddddaaw"
    assert found[StageName.SCAN].text == "1,204 objects still under the old key"
    assert found[StageName.REWRITE].commands == (
        "kubectl get configmaps --all-namespaces -o json | kubectl replace -f -",
        "kubectl get secrets --all-namespaces -o json | kubectl replace -f -",
    )
    assert found[StageName.RETIRE].commands == ()


def test_a_clean_scan_offers_to_retire_the_old_key() -> None:
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 5), stored=CLEAN)
    assert shape(found) == "dddddda"
    assert found[StageName.RETIRE].commands == (f"kmsctl keys retire {OLD_ID}",)
    assert not found.finished
    end = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 9), stored=CLEAN, retired=True)
    assert shape(end) == "ddddddd"
    assert end.finished
    assert end.present is None


def test_a_clean_scan_too_early_is_no_proof_and_says_when_there_can_be_one() -> None:
    early = Stored(report(at(120), {NEW_ID: 1204}))
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(125), stored=early)
    assert shape(found) == "dddddaw"
    assert found[StageName.SCAN].due == MOVED + FOLLOW


def test_a_scan_before_the_last_kube_apiserver_followed_counts_for_nothing() -> None:
    sightings = [seen("cp-1", status(following=followed(50))), seen("cp-2", status(following=followed(LATER + 60)))]
    assert shape(timeline(TURN, sightings, at(LATER + 61), stored=CLEAN)) == "ddddaaw"
    unfollowed = [sightings[0], seen("cp-2")]
    assert shape(timeline(TURN, unfollowed, at(LATER + 61), stored=CLEAN)) == "dddswww"


def test_values_that_cannot_be_understood_keep_the_old_key() -> None:
    stored = Stored(report(at(LATER), {NEW_ID: 5}, unknown=3))
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 5), stored=stored)
    assert shape(found) == "dddddsw"
    assert "3 objects cannot be understood" in found[StageName.SCAN].text


@pytest.mark.parametrize("spelling", [OLD_ID, OLD_ID.encode().hex(), "0X" + OLD_ID.encode().hex().upper()])
def test_every_spelling_of_the_old_keys_id_keeps_it(spelling: str) -> None:
    stored = Stored(report(at(LATER), {NEW_ID: 5, spelling: 7}), keys=(OLD, NEW))
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 5), stored=stored)
    assert found[StageName.SCAN].text == "7 objects still under the old key"
    assert not stored.strangers


@pytest.mark.parametrize(
    ("uses", "text"),
    [
        ({NEW_ID: 5, "gone": 1}, "1 object under gone, which no key has, may need any key"),
        ({"a" * 100: 2, "b": 3}, f"5 objects under {'a' * 64}… and another name, which no key has, may need any key"),
    ],
)
def test_what_names_a_key_that_there_is_not_keeps_the_old_one(uses: dict[str, int], text: str) -> None:
    stored = Stored(report(at(LATER), uses), keys=(OLD, NEW))
    found = timeline(TURN, [seen("cp-1", status(following=followed()))], at(LATER + 5), stored=stored)
    assert shape(found) == "dddddsw"
    assert found[StageName.SCAN].text == text


def test_a_label_beside_an_id_keeps_the_key_that_had_it() -> None:
    uses = (KeyInEtcd(NEW_ID, 4), KeyInEtcd(NEW_ID, 3, label="k8s-kek"))
    stored = Stored(replace(report(at(LATER)), objects=7, uses=uses), keys=(OLD, NEW))
    assert stored.left(TURN) == 3
    assert not stored.strangers


def test_a_first_key_has_nothing_to_clear() -> None:
    found = timeline(KeyTurnover("k8s-kek", None, NEW, MOVED), [seen("cp-1", status(following=followed()))], at(60))
    assert [each.step for each in found.stages] == [
        StageName.MADE,
        StageName.LABELS,
        StageName.NODES,
        StageName.APISERVERS,
    ]
    assert found.finished


def test_of_no_node_nothing_is_known() -> None:
    assert shape(timeline(TURN, [], at(60))) == "ddwwwww"


def test_news_is_what_changed_and_nothing_twice() -> None:
    first = timeline(TURN, [seen()], at(1))
    events = news(None, first)
    assert [(each.step, each.node, each.progress) for each in events] == [
        (StageName.MADE, "", StageProgress.DONE),
        (StageName.LABELS, "", StageProgress.DONE),
        (StageName.NODES, "cp-1", StageProgress.DONE),
        (StageName.NODES, "", StageProgress.DONE),
        (StageName.APISERVERS, "cp-1", StageProgress.ACTIVE),
        (StageName.APISERVERS, "", StageProgress.ACTIVE),
    ]
    assert news(first, timeline(TURN, [seen()], at(30))) == ()
    second = timeline(TURN, [seen("cp-1", status(following=followed(50)))], at(51))
    assert news(first, second)[:2] == (
        Event(StageName.APISERVERS, "cp-1", StageProgress.DONE, "", at(50)),
        Event(StageName.APISERVERS, "", StageProgress.DONE, ""),
    )
    scanning = timeline(TURN, [seen("cp-1", status(following=followed(50)))], at(52), scanning=True)
    assert scanning[StageName.SCAN].busy
    assert news(second, scanning) == ()


def test_what_kmsd_answered_is_the_turn() -> None:
    assert turn_of(Rotation((), OLD, NEW, rotated=True), "k8s-kek", at(99)) == TURN
    assert turn_of(Rotation((), OLD, None, rotated=False), "k8s-kek", at(99)) is None
    first = turn_of(Rotation((), None, NEW, rotated=True), "k8s-kek", at(99))
    assert first == KeyTurnover("k8s-kek", None, NEW, at(99))


def test_whoever_does_not_scan_by_itself_is_told_the_command_until_nothing_is_left() -> None:
    here = [seen("cp-1", status(following=followed(50)))]
    told = timeline(TURN, here, at(51))[StageName.SCAN]
    assert told.commands == ("kmsctl etcd scan --report scan.json",)
    assert timeline(TURN, here, at(51), scans=True)[StageName.SCAN].commands == ()
    assert timeline(TURN, here, at(51), retired=True)[StageName.SCAN].commands == ()


def test_what_a_restarted_kmsd_has_seen_since_is_no_time_of_the_rotation() -> None:
    encrypted = Following(at(900), at(900), at(960), first_encrypt=at(910))
    asked = Following(at(900), at(900), at(960))
    for following in (encrypted, asked):
        found = timeline(TURN, [seen("cp-1", status(following=following))], at(961))
        node = view(found, StageName.APISERVERS)
        assert (node.progress, node.at) == (StageProgress.DONE, None)
        assert node.seen is not None


RESTARTED = Following()


def test_an_unfinished_rotation_is_found_again() -> None:
    assert unfinished(status(), [NEW, OLD]) == TURN
    assert unfinished(status(following=RESTARTED), [NEW, OLD]) == TURN


def test_a_finished_rotation_is_not_resumed_whatever_earlier_ones_left() -> None:
    ancient = key("k8s-kek@20200101T000000Z", "ancient")
    retired = replace(OLD, label="k8s-kek.retired@20261124T000000Z", state=KeyState.ARCHIVED)
    for following in (RESTARTED, Following(previous_key_id=OLD_ID)):
        assert unfinished(status(following=following), [NEW, retired, ancient]) is None
        assert unfinished(status(following=following), [NEW, ancient]) is None
        assert unfinished(status(following=following), [NEW, ancient, OLD]) == TURN
    assert unfinished(status(None), [OLD]) is None


def test_keys_that_only_look_alike_are_not_resumed() -> None:
    for other in (
        key("k8s-kek@mine", "mine"),
        key("k8s-kek@20269999T999999Z", "no date"),
        key("other@20261123T120411Z", "another role"),
        replace(OLD, state=KeyState.PENDING),
    ):
        assert unfinished(status(following=RESTARTED), [NEW, other]) is None


def test_a_write_key_of_unknown_age_took_the_label_from_the_last_that_lost_it() -> None:
    adopted = replace(NEW, created=None)
    earlier = key("k8s-kek@20200101T000000Z", "ancient")
    assert unfinished(status(adopted, RESTARTED), [adopted, earlier, OLD]) == replace(TURN, new=adopted)


def test_the_command_that_retires_survives_a_shell() -> None:
    strange = replace(TURN, old=key(OLD_LABEL, "it's; rm -rf /"))
    assert shlex.split(retire_command(strange, "/tmp/a b"))[3:] == ["it's; rm -rf /", "--report", "/tmp/a b"]


MOMENTS = st.none() | st.floats(-1000, 2000).map(at)


@example(followings=[Following(first_encrypt=at(0.0))] * 2, now=at(0.0), scan=report(at(300.0)), retired=False)
@given(
    st.lists(
        st.builds(
            Following,
            MOMENTS,
            MOMENTS,
            MOMENTS,
            MOMENTS,
            MOMENTS,
            st.sampled_from(["", OLD_ID, "x"]),
        ),
        max_size=3,
    ),
    st.floats(-100, 2000).map(at),
    st.none() | st.builds(report, st.floats(-100, 2000).map(at), st.just({OLD_ID: 1}) | st.just({}), st.integers(0, 1)),
    st.booleans(),
)
def test_retiring_is_never_offered_before_all_have_followed_and_a_scan_has_shown_it(
    followings: list[Following], now: datetime, scan: object, retired: bool
) -> None:
    stored = None if scan is None else Stored(scan)  # type: ignore[arg-type]
    sightings = [seen(f"cp-{index}", status(following=each)) for index, each in enumerate(followings)]
    found = timeline(TURN, sightings, now, stored=stored, retired=retired)
    if found[StageName.RETIRE].progress is StageProgress.ACTIVE:
        assert followings
        assert stored is not None
        assert stored.report.started >= MOVED + FOLLOW
        assert not stored.left(TURN)
        assert not stored.report.unknown
        for each in found[StageName.APISERVERS].nodes:
            assert each.progress is StageProgress.DONE
            assert each.seen is not None
            assert each.at in (None, each.seen)
            assert stored.report.started >= each.seen
    assert found.finished == all(each.progress is StageProgress.DONE for each in found.stages)
