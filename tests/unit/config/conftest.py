"""No configuration of this machine reaches these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd import paths


@pytest.fixture(autouse=True)
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual files are two that a test may write."""
    monkeypatch.setattr(paths, "config_files", lambda: (tmp_path / "etc.toml", tmp_path / "user.toml"))
