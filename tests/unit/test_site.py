"""The site: every page is in it once, and its links lead to what is in it, too. `make docs` builds it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_site_has_every_page_and_what_pages_link_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    site = importlib.import_module("site_pages")
    monkeypatch.setattr("sys.argv", ["site_pages.py", str(tmp_path)])
    assert site.main() == 0
    pages = tmp_path / "site-pages"
    nav = list(site.named(yaml.safe_load((tmp_path / "mkdocs.yml").read_text())["nav"]))
    assert len(nav) == len(set(nav))
    assert [name for name in nav if not (pages / name).is_file()] == []
    assert {f"docs/{each.relative_to(ROOT / 'docs')}" for each in (ROOT / "docs").rglob("*.md")} <= set(nav)
    for page in pages.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).is_file(), f"{page}: {link}"
