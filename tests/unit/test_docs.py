"""What the documents point at is there: files and headings, targets of make, decisions, programs of hooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md", "k8s/**/*.md") for page in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def _targets() -> set[str]:
    """The targets that the Makefile declares."""
    declared = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared
    return set(declared[1].replace("\\", "").split())


def _anchors(page: Path) -> set[str]:
    """Names of the headings, as hosted Markdown makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def _named(page: Path) -> set[str]:
    """Targets of make that a page names as code."""
    code = "\n".join(re.findall(r"`[^`\n]+`|^```.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL))
    return set(MAKE.findall(code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_heading_that_are_there(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_target_of_make_that_a_page_names_exists(page: Path) -> None:
    assert _named(page) <= _targets()


def test_make_help_explains_what_contributing_names() -> None:
    told = re.findall(r"^# make ([a-z-]+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = _named(ROOT / "CONTRIBUTING.md")
    assert {"gen", "dev", "build", "debug", "vuln", "check"} <= named
    assert named - {"install-dev"} <= {"help", *told}


def test_every_page_of_docs_is_listed() -> None:
    index = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == set(re.findall(r"\(docs/([\w-]+\.md)\)", index))


def test_the_index_of_decisions_has_each_of_them_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"^\| \[(\d{4})\]\((.+?)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    records = sorted(folder.glob("[0-9]*.md"))
    assert [name for _, name, _ in rows] == [record.name for record in records]
    for number, name, title in rows:
        text = (folder / name).read_text()
        assert name.startswith(number)
        assert text.startswith(f"# {title}\n")
        assert re.search(r"^Decided \d{4}-\d\d-\d\d", text, re.MULTILINE)
        assert {"Why", "What", "What else was possible", "What it costs"} <= set(
            re.findall("^## (.+)$", text, re.MULTILINE)
        )


def test_hosted_ci_runs_make_test() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert "make test" in [step.get("run") for job in jobs.values() for step in job["steps"]]


def test_hooks_run_what_make_check_runs_and_fetch_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()
    for repo in config["repos"]:
        assert repo["repo"] == "local"
        for hook in repo["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].replace(" --force-exclude", "") in makefile
