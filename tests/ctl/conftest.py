"""kmsctl as its users run it: against a server on a Unix socket, in this process or in one of its own."""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from kmsctl.app import main, program
from kmsd.client import places
from tests import forkserver
from tests.ctl.canned import Canned, serve
from tests.ctl.terminal import Terminal
from tests.daemons import wait_for


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


class Run(Protocol):
    def __call__(self, *argv: str, stdin: bytes = b"") -> Result: ...


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a path short enough for a socket, that other users may enter."""
    path = Path(tempfile.mkdtemp(prefix="ctl-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    wait_for(lambda: _removed(path))


def _removed(path: Path) -> bool:
    """Whether it is gone; a shell that is still ending may write its history into it."""
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


@pytest.fixture
def canned(directory: Path) -> Iterator[Canned]:
    with serve(Canned(directory)) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """The sockets in this test's directory, whether anything listens there or not; no taste in colours or formats."""
    monkeypatch.setenv("KMSCTL_TARGET", f"unix://{directory}/admin.sock")
    monkeypatch.setenv("KMSCTL_SOCKET", f"unix://{directory}/kms.sock")
    monkeypatch.setenv("KMSCTL_CONFIG", "/dev/null")
    for name in ("KMSCTL_OUTPUT", "NO_COLOR", "PYTHONUNBUFFERED", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    for name in places.NAMES:  # what is typed is put there
        monkeypatch.setenv(places.variable(name), "")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@functools.cache
def _program() -> Any:
    """kmsctl's tree of commands, which is the same each time: to make it takes longer than most commands."""
    return program()


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, directory: Path) -> Run:
    """Runs kmsctl in this process. The test's directory reads DIR, and an age AGE, for the golden files."""
    monkeypatch.setattr("kmsctl.app.program", _program)

    def call(*argv: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = main(argv)
        return _result(code, *capfdbinary.readouterr(), directory)

    return call


@pytest.fixture
def spawn(directory: Path) -> Run:
    """Runs kmsctl in a process of its own, with pipes."""

    def call(*argv: str, stdin: bytes = b"") -> Result:
        done = forkserver.run(
            [sys.executable, "-m", "kmsctl", *argv], input=stdin, capture_output=True, check=False, timeout=60
        )
        return _result(done.returncode, done.stdout, done.stderr, directory)

    return call


@pytest.fixture
def open_terminal(directory: Path) -> Iterator[Callable[..., Terminal]]:
    """Runs a program in a real terminal; the environment is this test's, with the sockets of this test's directory."""
    opened: list[Terminal] = []

    def start(*command: str, columns: int = 80, lines: int = 24, **environment: str) -> Terminal:
        folder = directory / "tmux"
        folder.mkdir()
        sockets = {name: os.environ[name] for name in ("KMSCTL_TARGET", "KMSCTL_SOCKET")}
        terminal = Terminal(folder, {**sockets, **environment})
        opened.append(terminal)
        terminal.run(*command, columns=columns, lines=lines)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def _result(code: int, out: bytes, err: bytes, directory: Path) -> Result:
    return Result(code, _steady(out, directory), _steady(err, directory).decode())


def _steady(data: bytes, directory: Path) -> bytes:
    return re.sub(rb"\b\d+d\b", b"AGE", data.replace(os.fsencode(directory), b"DIR"))
