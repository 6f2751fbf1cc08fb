"""What docs/faq.md quotes is what the programs print, and where docs name commands of kmsctl they exist."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsctl.app import program

ROOT = Path(__file__).parents[2]
QUOTES = re.findall(r"^## `(.+)`$", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def _texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace("{}", "…")


@functools.cache
def _printed() -> frozenset[str]:
    """Return every text of the code, with … for what is filled in."""
    files = [path for name in ("kmsd", "kmsctl") for path in (ROOT / name).rglob("*.py") if "/api/" not in str(path)]
    return frozenset(text for path in files for text in _texts(path) if " " in text)


def test_there_are_questions() -> None:
    assert len(QUOTES) > 15
    assert len(set(QUOTES)) == len(QUOTES)


@pytest.mark.parametrize("quote", QUOTES)
def test_what_is_quoted_is_printed(quote: str) -> None:
    assert any(quote in text for text in _printed())


@pytest.mark.parametrize("page", ["faq.md", "disaster-recovery.md", "rotation.md"])
def test_the_commands_and_options_that_are_named_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    found = 0
    for line in re.findall(r"^ *kmsctl .*$|`kmsctl [^`]+`", text, re.MULTILINE):
        place = program()
        words = line.strip(" `").partition("#")[0].split()[1:]
        while words and words[0] in getattr(place, "commands", {}):
            place = place.commands[words.pop(0)]
        assert not (words and hasattr(place, "commands") and re.fullmatch("[a-z][a-z-]*", words[0])), line
        known = {option for each in place.params for option in each.opts}
        assert set(OPTION.findall(" ".join(words).partition("|")[0])) <= known, line
        found += 1
    assert found > 5
