"""The drawing of the rooms: that it is of the code is looked at by make check, here that it would be noticed if not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import grimp
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "scripts" / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "architecture", module)
    spec.loader.exec_module(module)
    return module


def _code(monkeypatch: pytest.MonkeyPatch, *imports: tuple[str, str]) -> None:
    """Let the code be these imports."""
    graph = grimp.ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    monkeypatch.setattr(grimp, "build_graph", lambda *packages, **options: graph)


def test_a_drawing_of_other_imports_is_noticed(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "DRAWING", tmp_path / "architecture.svg")
    _code(monkeypatch, ("kmsd.daemon", "kmsd.apis"))
    assert script.main() == 0
    monkeypatch.setattr(sys, "argv", ["architecture.py", "--check"])
    assert script.main() == 0
    _code(monkeypatch, ("kmsd.daemon", "kmsd.service"))
    assert script.main() == 1
    assert "run make gen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("kmsd.hsm.queue", "kmsd.keys.keyring"), ("kmsd.formats.jwe", "kmsd.service.api"), ("kmsd.apis.x", "kmsd.cli")],
)
def test_an_import_upward_is_an_error_that_names_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, importer: str, imported: str
) -> None:
    _code(monkeypatch, (importer, imported))
    with pytest.raises(SystemExit, match=f"{importer} imports {imported}: upward"):
        script.imports()


def test_a_package_without_a_room_is_an_error(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    _code(monkeypatch, ("kmsd.cellar.wine", "kmsd.errors"))
    with pytest.raises(SystemExit, match=r"kmsd\.cellar has no room"):
        script.imports()


def test_an_arrow_that_others_lead_to_is_left_out(script: ModuleType) -> None:
    found = {("daemon", "apis"), ("apis", "service"), ("daemon", "service"), ("daemon", "config")}
    assert script.arrows(found) == [("apis", "service"), ("daemon", "apis")]
