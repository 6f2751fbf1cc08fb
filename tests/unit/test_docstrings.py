"""Docstrings can be read alone: they are there, are whole sentences, and begin with a verb or with the thing itself."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HELD = sorted(
    each.relative_to(ROOT).as_posix()
    for program in ("kmsd", "kmsctl", "kmstui")
    for each in (ROOT / program).iterdir()
    if (each.is_dir() or each.suffix == ".py") and each.name not in ("__pycache__", "api")
)
"""What is held to this: all but the generated API."""

_VERBS = """
Accept Add Adopt Allow Answer Append Apply Approve Ask Begin Bind Bound Bring Build Call Cancel Care Change Check Choose
Claim
Clear Close Collect Compare Compute Connect Convert Copy Count Create Cut Decide Decode Decrypt Delete Deny Derive
Describe
Destroy Dial Do Draw Drop Encode Encrypt End Enter Escape Explain Fail Feed Fetch Fill Filter Find Finish Flush Follow
Forbid Forget Format Free Gather Get Give Go Group Hand Handle Have Hide Hold Import Install Issue Join Judge Keep Know
Lead Leave Let List Listen Load Log Look Make Mark Match Measure Merge Mix Move Name Note Obey Observe Offer Open Order
Pack Pad Paint Parse Pass Pause Pick Poll Prepare Print Probe Prove Publish Put Quote Raise Read Reconnect Record Refuse
Register Release Reload Remember Remove Rename Render Replace Report Request Reset Resolve Restore Retire Return
Revert Revoke Rewrite Rotate Run Save Say Scan Scroll Search See Select Send Serve Set Settle Share Show Shut Sign Skip
Sleep
Sort Split Start Stop Store Strip Submit Sum Take Tell Test Throw Try Turn Undo Unlock Update Use Verify Wait Wake Walk
Warn Watch Withdraw Write Yield
"""
VERBS = frozenset(_VERBS.split())
"""What a function's docstring may begin with: add a verb that is missing, in the form of an order."""

_ARTICLES = ("A ", "An ", "The ")
_FRAGMENTS = (
    *("Of ", "From ", "As ", "By ", "For ", "In ", "To ", "With ", "So ", "One that ", "One who ", "Those ", "Who "),
    *("What ", "How ", "Why ", "Where ", "When "),
)
"""Beginnings that leave out what is spoken of. A setting may say what it decides, and is held to the first line."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _files(place: str) -> list[Path]:
    path = ROOT / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _definitions(node: ast.AST, public: bool = True) -> Iterator[tuple[Definition, bool]]:
    """Yield every class, function and method, and whether others may use it."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Definition):
            seen = public and not each.name.startswith("_")
            yield each, seen
            yield from _definitions(each, seen and isinstance(each, ast.ClassDef))
        elif isinstance(each, ast.If | ast.Try):
            yield from _definitions(each, public)


def _decorators(node: Definition) -> set[str]:
    return {ast.unparse(each).partition("(")[0].rpartition(".")[2] for each in node.decorator_list}


def _complaint(node: Definition, public: bool) -> str:
    """Return what is wrong with the docstring, empty if nothing. A property reads as a field, which needs none."""
    decorators = _decorators(node)
    reads_as_field = bool(decorators & {"property", "cached_property"})
    if decorators & {"setter", "overload"}:
        return ""
    text = ast.get_docstring(node)
    if text is not None and "Examples:" in text.partition("\n\n")[0]:
        text = text.partition("\n\n")[2]  # the help of a command opens with them
    if text is None:
        return "has none" if public and not reads_as_field else ""
    first = " ".join(text.partition("\n\n")[0].split())
    word = first.partition(" ")[0].rstrip(",.")
    if not first.endswith((".", ":")):
        return "does not begin with a whole sentence"
    if isinstance(node, ast.ClassDef):
        fits = first.startswith((*_ARTICLES, "Raised "))
        return "" if fits else "is a class's, and does not begin with an article (an error: with Raised)"
    if reads_as_field:
        return "" if first.startswith((*_ARTICLES, "Whether ")) or word in VERBS else "does not say what is returned"
    return "" if word in VERBS else f"begins with {word!r}, which is none of VERBS"


@functools.cache
def _told_elsewhere() -> frozenset[str]:
    """Return the methods of kmstui that a base class explains, or Textual, which calls them by their names."""
    told = {"compose", "render", "render_line", "check_action", "notify_style_update", "can_replace"}
    for path in _files("kmstui"):
        for node, _ in _definitions(ast.parse(path.read_text())):
            if node.name.startswith(("on_", "action_", "watch_", "validate_")):
                told.add(node.name)
            if isinstance(node, ast.ClassDef):
                told |= {each.name for each, _ in _definitions(node) if ast.get_docstring(each) is not None}
    return frozenset(told)


@pytest.mark.parametrize("place", HELD)
def test_what_is_public_has_a_docstring_that_begins_with_a_verb_or_the_thing(place: str) -> None:
    wrong = []
    for path in _files(place):
        tree = ast.parse(path.read_text())
        if ast.get_docstring(tree) is None:
            wrong.append(f"{path.relative_to(ROOT)}: the module's docstring is missing")
        for node, public in _definitions(tree):
            complaint = _complaint(node, public)
            if complaint == "has none" and path.is_relative_to(ROOT / "kmstui") and node.name in _told_elsewhere():
                continue
            if complaint:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: the docstring of {node.name} {complaint}")
    assert not wrong, "\n".join(wrong)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of the module and of what is assigned, with their lines."""
    text = ast.get_docstring(tree)
    if text is not None:
        yield 1, text
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for before, each in pairwise(body) if isinstance(body, list) else ():
            if isinstance(before, ast.Assign | ast.AnnAssign):
                match each:
                    case ast.Expr(ast.Constant(str() as text)):
                        yield each.lineno, text


@pytest.mark.parametrize("place", [each for each in HELD if each != "kmsd/config"])
def test_no_docstring_of_a_module_or_a_constant_leaves_out_its_subject(place: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]!r}"
        for path in _files(place)
        for line, text in _texts(ast.parse(path.read_text()))
        if text.startswith(_FRAGMENTS)
    ]
    assert not wrong, "\n".join(wrong)
