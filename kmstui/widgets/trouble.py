"""What is wrong and what to do about it, right under the header; takes no room when all is well."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content

from kmsd.client import escape
from kmstui.text import hang, shorten
from kmstui.troubles import Trouble
from kmstui.widgets.steady import Said

_ROOMY = 32
"""Rows of the screen from which on every trouble is told with what to do about it."""


class TroubleList(VerticalScroll, can_focus=False):
    """brief: only the worst, cut to a line or two, with how many more there are."""

    def __init__(self, *, brief: bool) -> None:
        super().__init__()
        self._brief = brief

    def compose(self) -> ComposeResult:
        yield Said()

    def show(self, found: Sequence[Trouble]) -> None:
        self.display = bool(found)
        width = self.scrollable_content_region.width or self.screen.size.width - 2
        if self._brief and found:
            content = _short(found, width)
        elif len(found) > 1 and self.screen.size.height < _ROOMY:
            more = (_headline(trouble, width) for trouble in found[1:])
            content = Content("\n").join((_lines(found[0], width), *more))
        else:
            content = Content("\n").join(_lines(trouble, width) for trouble in found)
        self.query_one(Said).say(content)


def _short(found: Sequence[Trouble], width: int) -> Content:
    worst = found[0]
    more = f"  (and {len(found) - 1} more: 1)" if len(found) > 1 else ""
    message = shorten(escape(worst.message), width - 2 - len(more))
    parts = [Content.assemble((f"{worst.glyph} ", f"${worst.colour}"), (message, "bold"), (more, "dim"))]
    advice = worst.note or (f"→ {escape(worst.hint)}" if worst.hint else "")
    if advice:
        parts.append(Content.styled(f"  {shorten(advice, width - 2)}", "dim" if worst.note else ""))
    return Content("\n").join(parts)


def _headline(trouble: Trouble, width: int) -> Content:
    return Content.assemble((f"{trouble.glyph} ", f"${trouble.colour}"), shorten(escape(trouble.message), width - 2))


def _lines(trouble: Trouble, width: int) -> Content:
    message = hang(escape(trouble.message), width, 2)
    parts = [Content.assemble((f"{trouble.glyph} ", f"${trouble.colour}"), (message, "bold"))]
    if trouble.hint:
        parts.append(Content(f"  → {hang(escape(trouble.hint), width, 4)}"))
    if trouble.note:
        parts.append(Content.styled(f"  {hang(escape(trouble.note), width, 2)}", "dim"))
    return Content("\n").join(parts)
