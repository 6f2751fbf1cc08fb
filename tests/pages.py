"""The blocks of the pages, each with the line before it that says which test runs it, or why none does.

    <!-- run: tests/remote/test_remote_page.py -->
    <!-- not run: wants a cluster -->

Such a line is an HTML comment, which no reader of the page sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md", "k8s/**/*.md") for page in ROOT.glob(pattern)
)
COMMANDS = {"sh", "console"}
"""Languages of blocks that are typed: `sh` as they stand, `console` behind a `$`, with what comes of it below."""
OTHERS = {"text", "toml", "yaml", "json", "hcl", "ini", "promql", "proto", "python"}
_FENCE = re.compile(r"^( *)```(.*)$")
_MARK = re.compile(r"^ *<!-- (run|not run): (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A block of a page. line: of its first fence. language: empty if it names none. run: the test that runs it, empty
    if none does. not_run: why none does."""

    page: Path
    line: int
    language: str
    text: str
    run: str = ""
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order. Raises ValueError if one has no end."""
    found: list[Block] = []
    mark, opened = {"run": "", "not run": ""}, None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None and fence and not fence[2]:
            start, language, indent = opened
            text = "".join(each.removeprefix(indent) + "\n" for each in lines)
            found.append(Block(page, start, language, text, mark["run"], mark["not run"]))
            opened, mark = None, {"run": "", "not run": ""}
        elif opened is not None:
            lines.append(line)
        elif fence:
            opened, lines = (number, fence[2].strip(), fence[1]), []
        else:
            marked = _MARK.match(line)
            mark = {"run": "", "not run": ""} | ({marked[1]: marked[2]} if marked else {})
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: a block has no end")
    return found
