"""What is wrong and what to do about it, right under the title; takes no room when all is well."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from kmsd.client import escape
from kmstui.text import hang
from kmstui.troubles import Trouble


class TroubleList(VerticalScroll, can_focus=False):
    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, found: Sequence[Trouble]) -> None:
        self.display = bool(found)
        width = self.scrollable_content_region.width or self.screen.size.width - 2
        lines = [_lines(trouble, width) for trouble in found]
        self.query_one(Static).update(Content("\n").join(lines))


def _lines(trouble: Trouble, width: int) -> Content:
    message = hang(escape(trouble.message), width, 2)
    parts = [Content.assemble((f"{trouble.glyph} ", f"${trouble.colour}"), (message, "bold"))]
    if trouble.hint:
        parts.append(Content(f"  → {hang(escape(trouble.hint), width, 4)}"))
    if trouble.note:
        parts.append(Content.styled(f"  {hang(escape(trouble.note), width, 2)}", "dim"))
    return Content("\n").join(parts)
