"""Help: every command's opens with examples, and the examples are real."""

from __future__ import annotations

import shlex

import pytest
import typer

from kmsctl.app import app
from kmsctl.diagnostics import ExitCode
from tests.ctl.conftest import Run

COMMANDS = [
    "",
    "status",
    "health",
    "slots",
    "keys",
    "keys list",
    "keys adopt",
    "keygen",
    "encrypt",
    "decrypt",
    "etcd",
    "etcd scan",
    "version",
    "help",
    "help exit-codes",
]


def test_the_list_of_commands_is_whole() -> None:
    root = typer.main.get_command(app)
    names = {""}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        names |= {name, *(f"{name} {sub}" for sub in getattr(command, "commands", {}))}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_examples_of_that_very_command(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    usage, blank, title, *rest = result.text.splitlines()
    assert usage.startswith(f"Usage: kmsctl {command}".rstrip())
    assert (blank, title) == ("", "  Examples:")
    examples = rest[: rest.index("")]
    assert examples
    for example in examples:
        assert f"kmsctl {command}".strip() in example


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_in_the_examples_exist(run: Run, command: str) -> None:
    text = run(*command.split(), "--help").text
    examples = text.split("Examples:\n")[1].split("\n\n")[0]
    for line in examples.splitlines():
        for stage in _stages(line):
            if stage[0] != "kmsctl":
                continue
            nouns = " ".join(stage[1:3]) if " ".join(stage[1:3]) in COMMANDS else stage[1]
            known = run(*nouns.split(), "--help").text
            for option in (word for word in stage if word.startswith("-")):
                assert option in known, line


def _stages(line: str) -> list[list[str]]:
    """The words of each command of a pipeline."""
    stages: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def test_h_is_help(run: Run) -> None:
    assert run("keygen", "-h").out == run("keygen", "--help").out


def test_a_missing_command_shows_help_on_stderr(run: Run) -> None:
    for argv in ([], ["keys"], ["etcd"]):
        result = run(*argv)
        assert (result.code, result.out) == (2, b"")
        assert "Examples:" in result.err


def test_help_alone_is_the_help_of_kmsctl(run: Run) -> None:
    result = run("help")
    assert result.code == 0
    assert result.text.splitlines()[0] == "Usage: kmsctl [OPTIONS] COMMAND [ARGS]..."


def test_exit_codes_lists_them_all(run: Run) -> None:
    lines = run("help", "exit-codes").text.splitlines()[1:]
    assert [int(line.split()[0]) for line in lines] == [code.value for code in ExitCode]
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 7, 130]


def test_version_option(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.out) == (0, b"kmsctl 0.1.0\n")


def test_the_server_version_is_missing_without_failure(run: Run) -> None:
    result = run("version")
    assert result.code == 0
    assert result.text == "kmsctl   0.1.0\nkmsd     -\n"
    assert "there is no socket DIR/admin.sock" in result.err
