"""docs/tokens.md explains every check that the doctor makes of any kind of token, under its name and its title."""

from __future__ import annotations

from pathlib import Path

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.daemons import Kmsd

_DOCS = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text()


def test_every_check_is_explained(kmsd: Kmsd) -> None:
    found = kmsd.admin("Diagnose", admin.DiagnoseRequest(), 60.0).checks
    assert len(found) > 15
    for check in found:
        name = "speed_" if check.name.startswith("speed_") else check.name
        assert f"`{name}`" in _DOCS, check.name
        assert f" {check.title}  " in _DOCS, check.title


def test_what_is_told_of_a_token_that_is_away_is_explained() -> None:
    for name in ("connection", "complete", "writable", "mechanisms"):
        assert f"`{name}`" in _DOCS
