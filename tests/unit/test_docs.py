"""What is pointed at is there: files, headings, modules, targets of make, decisions, programs of hooks."""

from __future__ import annotations

import ast
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
SOURCES = sorted(
    path for name in ("kmsd", "kmsctl", "kmstui") for path in ROOT.glob(f"{name}/**/*.py") if "/api/" not in str(path)
)
DOTTED = re.compile(r"`((?:kmsd|kmsctl|kmstui)(?:\.\w+)+)`")
PROTOBUF = {"kmsd.admin.v1"}
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


def _is_there(dotted: str) -> bool:
    """Whether this names a module, or what a module has."""
    path, names = ROOT, dotted.split(".")
    while names and (path / names[0]).is_dir():
        path /= names.pop(0)
    if names and (path / f"{names[0]}.py").exists():
        path /= f"{names.pop(0)}.py"
    else:
        path /= "__init__.py"
    return path.exists() and (not names or re.search(rf"\b{names[0]}\b", path.read_text()) is not None)


@pytest.mark.parametrize("folder", ["kmsd", "kmsctl", "kmstui", "docs"])
def test_every_module_that_is_named_in_full_exists(folder: str) -> None:
    texts = [page.read_text() for page in (*SOURCES, *PAGES) if page.is_relative_to(ROOT / folder)]
    named = {name for text in texts for name in DOTTED.findall(text)} - PROTOBUF
    assert {name for name in named if not _is_there(name)} == set()


def test_every_module_on_the_way_of_a_call_exists() -> None:
    named = set(re.findall(r"`([a-z]\w+\.[a-z]\w+)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert {"transport.dispatch", "keys.keyring", "hsm.queue"} <= named
    settings = {"kms.transport"}
    assert {name for name in named - settings if not (_is_there(name) or _is_there(f"kmsd.{name}"))} == set()


def test_what_a_package_says_of_its_modules_is_of_modules_that_it_has() -> None:
    missing = []
    for path in SOURCES:
        if path.name != "__init__.py":
            continue
        code = path.read_text()
        said = ast.get_docstring(ast.parse(code)) or ""
        for name in re.findall(r"`([a-z_]\w*)`", said):
            imported = re.search(rf"\b{name}\b", code.replace(said, ""))
            if not (imported or (path.parent / f"{name}.py").exists() or (path.parent / name).is_dir()):
                missing.append(f"{path.parent.relative_to(ROOT)}: {name}")
    assert not missing


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
