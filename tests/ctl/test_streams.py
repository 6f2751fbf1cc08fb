"""stdout is data, stderr is everything else, and each has one writer; terminals, pipes and full disks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kmsctl
from tests import forkserver
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run

SOURCES = Path(kmsctl.__file__).parent


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.name)
def test_stdin_has_one_reader_and_stdout_and_stderr_one_writer_each(path: Path) -> None:
    allowed = {
        "output.py": {"stdout", "stdout.fileno"},
        "diagnostics.py": {"stderr"},
        "files.py": {"stdin", "stdin.fileno"},
    }
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdin" | "stdout" | "stderr" as name):
                parent = parents[node]
                found.add(f"{name}.fileno" if isinstance(parent, ast.Attribute) and parent.attr == "fileno" else name)
            case ast.Name(id="print") | ast.Attribute(attr="echo" | "secho"):
                found.add("print")
    assert found <= allowed.get(path.name, set())


def _terminal(*argv: str, **environment: str) -> str:
    """What kmsctl writes to a stdout that is a terminal."""
    primary, secondary = os.openpty()
    try:
        forkserver.run(
            [sys.executable, "-m", "kmsctl", *argv],
            stdout=secondary,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            check=True,
            timeout=60,
        )
        return os.read(primary, 1 << 16).decode()
    finally:
        os.close(secondary)
        os.close(primary)


def test_colour_is_for_terminals_that_want_it(spawn: Run, canned: Canned) -> None:
    assert "\x1b[32m● SERVING\x1b[0m" in _terminal("status")
    assert "\x1b" not in _terminal("--no-color", "status")
    assert "\x1b" not in _terminal("status", NO_COLOR="1")
    assert "\x1b" not in _terminal("status", TERM="dumb")
    piped = spawn("status")
    assert b"\x1b" not in piped.out
    assert "● SERVING".encode() in piped.out


def test_a_raw_ciphertext_ends_its_line_on_a_terminal_alone(spawn: Run, canned: Canned) -> None:
    assert _terminal("encrypt", "/dev/null").endswith("\r\n")
    assert not spawn("encrypt", "/dev/null").out.endswith(b"\n")


def test_an_encoding_without_the_glyphs_gets_plain_ones(
    spawn: Run, canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert b"* SERVING" in spawn("status").out
    listed = spawn("keys", "list")
    assert listed.code == 0
    assert b"\\u9375" in listed.out


@pytest.mark.parametrize("argv", [["status"], ["encrypt", "/dev/null"], ["help", "exit-codes"]])
def test_a_full_disk_is_an_error_and_not_a_traceback(canned: Canned, argv: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = forkserver.run(
            [sys.executable, "-m", "kmsctl", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == b"kmsctl: error: cannot write the output: No space left on device\n"


def test_a_reader_that_goes_away_is_no_drama(canned: Canned) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = forkserver.run(
        [sys.executable, "-m", "kmsctl", "status"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_closed_standard_streams_are_survived(canned: Canned) -> None:
    command = f"{sys.executable} -m kmsctl"
    for redirection, code in (("2>&-", 0), ("<&-", 0), (">&-", 1)):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} status {redirection}"], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == code, redirection
        assert b"Traceback" not in done.stderr
