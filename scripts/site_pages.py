"""Lay out what the site is made of in a folder: mkdocs.yml, and in site-pages the pages and what they link to.

Usage: site_pages.py FOLDER. README.md becomes the first page. A link to a folder leads to a list of its files, which is
made here. Pages that mkdocs.yml does not name are added to its end.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("docs", "k8s", "protos", ".github/workflows")
FILES: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml")
LINK: Final = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main() -> int:
    folder = Path(sys.argv[1])
    out = folder / "site-pages"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, out / name)
    for name in FILES:
        shutil.copy(ROOT / name, out / name)
    (out / "README.md").rename(out / "index.md")
    for page in out.rglob("*.md"):
        page.write_text(LINK.sub(partial(_link, page=page, out=out), page.read_text()))
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config(out), sort_keys=False))
    return 0


def config(pages: Path) -> dict[str, Any]:
    """Return what mkdocs.yml says, with every page of docs/ in its nav."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    there = sorted(str(each.relative_to(pages)) for each in pages.glob("docs/**/*.md"))
    more = [name for name in there if name not in set(named(found["nav"]))]
    found["nav"].append({"More": more})
    return found


def named(nav: list[Any]) -> Iterator[str]:
    """Yield the pages that a nav names."""
    for each in nav:
        for name in each.values() if isinstance(each, dict) else [each]:
            yield from named(name) if isinstance(name, list) else [name]


def _link(link: re.Match[str], page: Path, out: Path) -> str:
    """Return a link of a page as the site has it."""
    name, anchor = link[1], link[2] or ""
    if re.match(r"[a-z]+:", name):
        return link[0]
    there = (page.parent / name).resolve()
    if there == (out / "README.md").resolve():
        return f"]({name.removesuffix('README.md')}index.md{anchor})"
    if there.is_dir():
        _list(there)
        return f"]({name.rstrip('/')}/index.md{anchor})"
    return link[0]


def _list(folder: Path) -> None:
    """Write the page that lists the files of a folder."""
    names = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    lines = [f"- [{name}]({name})" for name in names if not name.endswith("index.md")]
    (folder / "index.md").write_text(f"# {folder.name}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
