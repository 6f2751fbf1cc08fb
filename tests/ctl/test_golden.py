"""What people and scripts read, to the letter. A change here changes a contract or manners."""

from __future__ import annotations

import json

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from tests.ctl.answers import degraded, down, serving
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run

FORMATS = ("table", "wide", "json", "yaml", "name")
STATES = {"serving": serving, "degraded": degraded, "down": down}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("state", STATES)
def test_status_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, state: str, form: str
) -> None:
    canned.status = STATES[state]()
    result = run("status", "-o", form)
    assert result.code == 0  # whatever the state: health is the one that judges
    assert result.err == ""
    assert result.text == snapshot


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("command", ["keys list", "slots"])
def test_lists_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "command",
    [
        "keygen fresh",
        "keygen k8s-kek --if-not-exists",
        "keygen k8s-kek --if-not-exists --bits 128 --id another",
        "keys adopt k8s-kek --id mine",
    ],
)
def test_key_commands_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize("command", ["health", "version", "version --client", "help exit-codes"])
def test_small_commands_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert result.err == ""
    assert result.text == snapshot


@pytest.mark.parametrize("command", ["status", "keys list", "slots", "keygen fresh", "health", "version"])
def test_json_and_yaml_say_the_same(run: Run, canned: Canned, command: str) -> None:
    as_json = json.loads(run(*command.split(), "-o", "json").out)
    canned.keys = [key for key in canned.keys if key.label != "fresh"]
    assert as_json == yaml.safe_load(run(*command.split(), "-o", "yaml").out)


def test_what_a_token_holds_reaches_no_terminal_unescaped(run: Run, canned: Canned) -> None:
    canned.status.healthz = "bad\x1b]0;owned\x07\x9b"
    canned.status.token.label = "\x1b[31mred"
    for command in (["keys", "list"], ["status"], ["slots"], ["health"]):
        for form in ("table", "wide", "json", "yaml", "name"):
            result = run(*command, "-o", form)
            for text in (result.text, result.err):
                assert all(each.isprintable() or each == "\n" for each in text), (command, form)


def test_columns_line_up_under_wide_characters(run: Run, canned: Canned) -> None:
    lines = run("keys", "list").text.splitlines()
    column = lines[0].index("STATE")
    wide = next(line for line in lines if line.startswith("鍵"))
    assert wide.index("pending") == column - 1  # one character that takes two columns


def test_an_empty_list_is_empty_on_stdout_and_says_what_next(run: Run, canned: Canned) -> None:
    canned.keys.clear()
    result = run("keys", "list")
    assert result.out == b""
    assert "kmsctl keygen LABEL" in result.err
    assert json.loads(run("keys", "list", "-o", "json").out) == {"keys": []}
    assert run("keys", "list", "-o", "name").out == b""


def test_options_work_before_the_command_and_after_it_the_later_wins(run: Run, canned: Canned) -> None:
    target = f"unix://{canned.admin}"
    before = run("--target", target, "--timeout", "5s", "-o", "name", "keys", "list")
    after = run("keys", "list", "--target", target, "--timeout", "5s", "-o", "name")
    both = run("--target", "/nowhere", "-o", "json", "keys", "list", "-o", "name", "--target", target)
    assert before.code == after.code == both.code == 0
    assert before.out == after.out == both.out
    assert before.out.startswith(b"k8s-kek\n")
