"""What keeps the tests of the kernel fast: nothing here starts a process, unless its module says that it does."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("processes") is None:

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("a test of the kernel starts a process: mark its module with pytest.mark.processes")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
