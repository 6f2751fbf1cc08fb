"""Danger, graded: what an idle key takes, what a key in use takes, and that nobody is asked who cannot answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from syrupy.assertion import SnapshotAssertion

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.report import write_report
from tests.ctl.answers import WRITE_ID
from tests.ctl.canned import Canned, Failure
from tests.ctl.conftest import Run
from tests.ctl.terminal import Terminal
from tests.etcd.test_report import REPORT

IN_USE = "k8s-kek@2022-01-01T00:00:00Z"
IDLE = "id-wide"


def labels(canned: Canned) -> set[str]:
    return {key.label for key in canned.keys}


def changes(canned: Canned) -> list[object]:
    """The requests that would have changed something."""
    return [each for each in canned.requests if getattr(each, "dry_run", True) is False]


REFUSED = {
    "an idle key": (f"keys destroy {IDLE}", 2),
    "a key in use": (f"keys destroy {IN_USE}", 6),
    "a key in use, carelessly": (f"keys destroy {IN_USE} --yes", 6),
    "a key in use, wrongly": (f"keys destroy {IN_USE} --confirm another", 2),
    "the write key": ("keys destroy k8s-kek --yes", 6),
    "no key": ("keys destroy nothing --yes", 5),
    "relabel the write key": ("keys relabel k8s-kek another", 6),
    "relabel to a label that is taken": (f"keys relabel {IDLE} k8s-kek", 6),
    "relabel no key": ("keys relabel nothing another", 5),
    "retire a key in use": (f"keys retire {IN_USE}", 6),
    "retire no key": ("keys retire nothing", 5),
    "tampering with the audit": ("audit acknowledge", 2),
    "revert": ("keys revert", 2),
    "a dry run of what is refused": (f"keys destroy {IN_USE} --dry-run", 6),
}


@pytest.mark.parametrize("what", REFUSED)
def test_without_a_terminal_it_is_refused_never_asked_and_nothing_changes(
    spawn: Run, canned: Canned, snapshot: SnapshotAssertion, what: str
) -> None:
    line, code = REFUSED[what]
    before = labels(canned)
    result = spawn(*line.split(), stdin=f"y\n{IN_USE}\nk8s-kek\n".encode())
    assert (result.code, result.out) == (code, b"")
    assert result.err == snapshot
    assert labels(canned) == before


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
@pytest.mark.parametrize(
    "line",
    [
        f"keys destroy {IDLE} --yes",
        f"keys destroy {IDLE} --dry-run",
        "keys destroy k8s-kek --confirm k8s-kek",
        f"keys relabel {IDLE} another",
        f"keys relabel {IDLE} another --dry-run",
        "keys relabel k8s-kek another --confirm k8s-kek",
        f"keys retire {IDLE}",
        f"keys retire {IDLE} --dry-run",
        f"keys retire {IN_USE} --confirm {IN_USE}",
        "keys revert --yes",
        "keys revert --dry-run",
        "keys revert --yes --from another",
        "audit acknowledge --yes",
        "audit acknowledge --dry-run",
    ],
)
def test_what_is_done_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, line: str, form: str
) -> None:
    result = run(*line.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


def test_a_dry_run_changes_nothing(run: Run, canned: Canned) -> None:
    before = labels(canned)
    for line in (
        f"keys destroy {IDLE} --dry-run",
        f"keys destroy {IDLE} --yes --dry-run",
        f"keys destroy {IN_USE} --confirm {IN_USE} --dry-run",
        f"keys relabel {IDLE} another --dry-run",
        f"keys retire {IDLE} --dry-run",
        "keys revert --dry-run",
        "audit acknowledge --dry-run",
        "audit acknowledge --yes --dry-run",
    ):
        assert run(*line.split()).code == 0
    assert labels(canned) == before
    assert changes(canned) == []


def test_a_report_goes_with_the_question_and_with_the_deed(run: Run, canned: Canned, directory: Path) -> None:
    report = directory / "scan.json"
    report.write_bytes(write_report(REPORT))
    for deed, request in (("retire", pb.RetireKeyRequest), ("destroy", pb.DestroyKeyRequest)):
        canned.requests.clear()
        assert run("keys", deed, IDLE, "--report", str(report), *(["--yes"] if deed == "destroy" else [])).code == 0
        asked = [each for each in canned.requests if isinstance(each, request)]
        assert [each.dry_run for each in asked] == ([True, False] if deed == "destroy" else [False])
        for each in asked:
            assert [(use.key_id, use.objects, use.label) for use in each.scan.uses] == [
                (use.key_id, use.objects, use.label) for use in REPORT.uses
            ]
            assert each.scan.unknown == REPORT.unknown


def test_a_key_is_called_by_what_never_moves(run: Run, canned: Canned) -> None:
    """Between the look and the deed a label may have moved to another key."""
    run("keys", "destroy", "k8s-kek@2021-01-01T00:00:00Z.retired", "--yes")
    named = {each.key for each in canned.requests if isinstance(each, pb.DestroyKeyRequest)}
    assert len(named) == 1
    assert named.pop().startswith("sha256:84d3b89e")


def test_of_keys_whose_ids_collide_one_is_called_by_its_label(run: Run, canned: Canned) -> None:
    (key,) = (each for each in canned.keys if each.key_id == "id-wide")
    key.state = pb.KEY_STATE_UNUSABLE
    run("keys", "destroy", key.label, "--yes")
    assert {each.key for each in canned.requests if isinstance(each, pb.DestroyKeyRequest)} == {key.label}


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("yes", 0), ("n", 1), ("", 1), ("k8s-kek", 1)])
def test_an_idle_key_takes_a_yes(
    canned: Canned, open_terminal: Callable[..., Terminal], answer: str, code: int
) -> None:
    terminal = open_terminal("kmsctl", "keys", "destroy", IDLE, columns=160)
    terminal.shows("destroy the key '鍵-ключ' (aes-256, id-wide, sha256:e59bf938) for good? [y/N]")
    terminal.type(answer)
    terminal.press("Enter")
    assert terminal.exit_code() == code
    terminal.shows("is destroyed" if code == 0 else "nothing was done")
    assert ("鍵-ключ" in labels(canned)) == bool(code)


@pytest.mark.parametrize("deed", ["destroy", "relabel", "retire"])
def test_a_key_in_use_takes_its_label(canned: Canned, open_terminal: Callable[..., Terminal], deed: str) -> None:
    command = ["kmsctl", "keys", deed, IN_USE, *(["another"] if deed == "relabel" else [])]
    terminal = open_terminal(*command, columns=160)
    terminal.shows("warning: the key k8s-kek@2022", f"type its label to {deed} it all the same:")
    terminal.type(IN_USE)
    terminal.press("Enter")
    assert terminal.exit_code() == 0
    (done,) = changes(canned)[-1:]
    assert getattr(done, "confirm_label") == IN_USE  # noqa: B009 - three kinds of request


@pytest.mark.parametrize("answer", ["y", "yes", "k8s-kek", ""])
def test_anything_but_its_label_leaves_a_key_in_use(
    canned: Canned, open_terminal: Callable[..., Terminal], answer: str
) -> None:
    terminal = open_terminal("kmsctl", "keys", "destroy", IN_USE, "--yes", columns=160)
    terminal.shows("type its label to destroy it all the same:")
    terminal.type(answer)
    terminal.press("Enter")
    assert terminal.exit_code() == 1
    terminal.shows("error: that is not its label; nothing was done")
    assert changes(canned) == []


def test_what_no_label_overrides_is_not_asked_for(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    canned.failures = {
        "DestroyKey": Failure(grpc.StatusCode.FAILED_PRECONDITION, "the token is read-only", "unlock it")
    }
    terminal = open_terminal("kmsctl", "keys", "destroy", IDLE, "--yes")
    assert terminal.exit_code() == 6
    assert "type its label" not in terminal.shows("the token is read-only", "AFTER")


@pytest.mark.parametrize(("key", "code"), [("C-c", 130), ("C-d", 1)])
def test_a_question_can_be_left(canned: Canned, open_terminal: Callable[..., Terminal], key: str, code: int) -> None:
    # With its own shell in between, the terminal's Ctrl-C would end that too.
    program = 'trap "" INT; "$@"; exit $?' if key == "C-d" else 'trap : INT; "$@"; exit $?'
    terminal = open_terminal("bash", "-c", program, "bash", "kmsctl", "keys", "destroy", IN_USE, columns=160)
    terminal.shows("type its label")
    terminal.press(key)
    terminal.shows("AFTER") if key == "C-d" else terminal.shows("type its label", "^C")
    assert changes(canned) == []
    if key == "C-d":
        assert terminal.exit_code() == code


@pytest.mark.parametrize("deed", ["destroy", "relabel", "retire"])
def test_a_dry_run_asks_nothing(canned: Canned, open_terminal: Callable[..., Terminal], deed: str) -> None:
    command = ["kmsctl", "keys", deed, IN_USE, *(["another"] if deed == "relabel" else []), "--dry-run"]
    terminal = open_terminal(*command, columns=160)
    assert terminal.exit_code() == 6
    assert "type its label" not in terminal.shows("--confirm", "AFTER")


def test_a_label_on_the_token_cannot_dress_up_the_question(
    canned: Canned, open_terminal: Callable[..., Terminal]
) -> None:
    (key,) = (each for each in canned.keys if each.key_id == "id-wide")
    key.label = "\x1b[2Jharmless\r"
    terminal = open_terminal("kmsctl", "keys", "destroy", IDLE, columns=160)
    terminal.shows("\\x1b[2Jharmless\\r", "BEFORE", "[y/N]")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_what_is_acknowledged_is_told_before_it_is_asked_for_and_nothing_more_is_acknowledged(
    canned: Canned, open_terminal: Callable[..., Terminal], answer: str, code: int
) -> None:
    terminal = open_terminal("kmsctl", "audit", "acknowledge", columns=160)
    terminal.shows("audit.jsonl was replaced", "audit-kms.jsonl was deleted\\x1b[2J", "acknowledge this? [y/N]")
    terminal.type(answer)
    terminal.press("Enter")
    assert terminal.exit_code() == code
    done = [each.up_to_seq for each in changes(canned) if isinstance(each, pb.AcknowledgeAuditRequest)]
    assert done == ([19] if code == 0 else [])


def test_where_nothing_was_seen_nothing_is_acknowledged(run: Run, canned: Canned) -> None:
    canned.tampering.clear()
    result = run("audit", "acknowledge")
    assert (result.code, result.err) == (0, "kmsctl: there is nothing to acknowledge\n")
    assert changes(canned) == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_revert_takes_a_yes_and_goes_away_from_the_key_that_was_asked_about(
    canned: Canned, open_terminal: Callable[..., Terminal], answer: str, code: int
) -> None:
    terminal = open_terminal("kmsctl", "keys", "revert", columns=160)
    terminal.shows("revert away from 87bd6ad8, with another new write key? [y/N]")
    terminal.type(answer)
    terminal.press("Enter")
    assert terminal.exit_code() == code
    asked = [(each.from_key_id, each.dry_run) for each in canned.requests if isinstance(each, pb.RevertKeyRequest)]
    assert asked == [("", True), (WRITE_ID, False)][: 2 - code]


@pytest.mark.parametrize(
    ("command", "question"),
    [
        (f"keys destroy {IDLE}", "[y/N]"),
        (f"keys retire {IN_USE}", "type its label"),
        ("keys revert", "[y/N]"),
        ("rotate", "[y/N]"),
        ("audit acknowledge", "[y/N]"),
    ],
)
def test_an_interrupt_at_a_question_says_that_nothing_was_changed(
    canned: Canned, open_terminal: Callable[..., Terminal], command: str, question: str
) -> None:
    terminal = open_terminal("kmsctl", *command.split(), columns=160)
    terminal.shows(question)
    terminal.press("C-c")
    assert terminal.exit_code() == 130
    terminal.shows("kmsctl: interrupted; nothing was changed")
    assert [each for each in changes(canned) if not isinstance(each, pb.RetireKeyRequest)] == []  # that was refused


def test_revert_is_found_from_the_help_of_rotate(run: Run) -> None:
    assert "`kmsctl keys revert`" in run("rotate", "--help").text


def test_revert_says_what_it_does_not_undo(run: Run, canned: Canned) -> None:
    result = run("keys", "revert", "--yes")
    assert "NOT UNDONE" in result.text
    document = json.loads(run("keys", "revert", "--yes", "-o", "json").out)
    assert document["reverted"] is True
    assert document["not_undone"]
    assert [step["done"] for step in document["steps"]] == [True, True]
