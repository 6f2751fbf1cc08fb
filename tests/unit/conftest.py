"""What keeps the tests of the kernel fast: nothing here starts a process, unless its module says that it does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmsd import cli, paths
from tests.tokens import clean_environment
from tests.unit.commandline import Run


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("processes") is None:

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("a test of the kernel starts a process: mark its module with pytest.mark.processes")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file configures kmsd in this process, and nothing can be typed in."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(paths, "config_files", lambda: (tmp_path / "etc.toml", tmp_path / "user.toml"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], nothing_configured: None) -> Run:
    """Runs one command line in this process. Returns exit code, stdout, stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int | None)
        return code or 0, out, err

    return run
