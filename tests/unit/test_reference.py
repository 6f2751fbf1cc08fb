"""docs/reference and the manual pages: they have every setting and every command, and what is stale is noticed."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kmsctl.app import program
from kmsd import cli
from kmsd.config.values import ENTRIES, LEAVES

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what imports a script of the project's."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("kmsd.paths._is_root", lambda: True)
    return importlib.import_module


def test_a_page_that_is_not_what_the_code_says_is_noticed(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = scripts("reference")
    monkeypatch.setattr(reference, "PAGES", tmp_path)
    for other in ("commands", "admin_api"):
        monkeypatch.setattr(reference, other, str)
    monkeypatch.setattr("sys.argv", ["reference.py"])
    assert reference.main() == 0
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert reference.main() == 0
    page = tmp_path / "configuration.md"
    page.write_text(page.read_text().replace("31400", "31401"))
    assert reference.main() == 1
    assert "docs/reference/configuration.md is not what the code says: run make gen" in capsys.readouterr().err


def test_every_setting_is_told_once_with_what_it_takes_and_when_it_counts(scripts: Any) -> None:
    groups = list(scripts("settingsdoc").groups())
    told = [f"{group.name}.{each.name}" for group in groups for each in group.settings]
    assert sorted(told) == sorted({*LEAVES, *ENTRIES})
    (interval,) = [each for group in groups if group.name == "health" for each in group.settings][:1]
    assert (interval.unit, interval.default, interval.reload) == ("seconds", "`10.0`", False)
    assert interval.environment == "KMSD_HEALTH__INTERVAL"
    (level,) = [each for group in groups if group.name == "log" for each in group.settings if each.name == "level"]
    assert level.reload
    assert set(level.flags) == {"--log-level", "--debug"}


def test_the_manual_has_every_command_and_setting_and_roff_finds_no_fault(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["manpages.py", str(tmp_path), "2026-01-02"])
    assert scripts("manpages").main() == 0
    groups = {name for name, each in program().commands.items() if getattr(each, "commands", None)}
    pages = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert pages.keys() == {"kmsd.8", "kmsctl.1", "kmstui.1", "kmsd.toml.5", *(f"kmsctl-{name}.1" for name in groups)}
    for name in program().commands:
        page = pages["kmsctl.1"] + pages.get(f"kmsctl-{name}.1", "")
        assert f"\n.SS kmsctl {name} ".replace("-", "\\-") in page or f"kmsctl\\-{name} (1)" in page, name
    for flag in cli.FLAGS:
        assert flag.name.replace("-", "\\-") in pages["kmsd.8"]
    for key in LEAVES:
        assert f"\n.B {key.split('.')[1]}\n" in pages["kmsd.toml.5"]
    lint = shutil.which("mandoc")
    assert lint, "make test installs mandoc"
    done = subprocess.run(
        [lint, "-Tlint", "-Wwarning", *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
