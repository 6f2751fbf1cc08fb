"""The list of what is wrong and what to do about it, right under the header; takes no room when all is well."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message

from kmsd.client import escape
from kmstui.problem_list import ShownProblem
from kmstui.text import hang, shorten
from kmstui.widgets.steady import Said

_ROOMY = 32
"""Rows of the screen from which on every trouble is told with what to do about it."""


class TroubleList(VerticalScroll, can_focus=False):
    """The list of troubles. brief: only the worst, cut to a line or two, with how many more there are. Else one can be
    chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Look into it"),
        Binding("up,k", "move(-1)", "Problem before", show=False),
        Binding("down,j", "move(1)", "Next problem", show=False),
    ]

    @dataclass
    class Chosen(Message):
        trouble: ShownProblem

    def __init__(self, *, brief: bool) -> None:
        super().__init__()
        self._brief = brief
        self._found: tuple[ShownProblem, ...] = ()
        self._current = ""
        """The message of the one that is chosen; empty: none is yet, and the worst counts."""
        self._tops: tuple[int, ...] = ()
        """The first line of each."""

    def compose(self) -> ComposeResult:
        yield Said()

    def show(self, found: Sequence[ShownProblem], *, lost: bool) -> None:
        """Show troubles. lost: kmsd does not answer, so that nothing leads on."""
        self._found = tuple(found)
        self.can_focus = bool(found) and not self._brief and not lost
        self.display = bool(found)
        if found:
            self._redraw()

    def _redraw(self) -> None:
        width = self.scrollable_content_region.width or self.screen.size.width - 2
        if self._brief:
            self.query_one(Said).say(_short(self._found, width))
            return
        roomy, at = self.screen.size.height >= _ROOMY, self._at
        parts = []
        for number, trouble in enumerate(self._found):
            style = "bold reverse" if self._current and number == at else "bold"
            parts.append(_lines(trouble, width, style) if roomy or number == at else _headline(trouble, width))
        heights = [part.plain.count("\n") + 1 for part in parts]
        self._tops = tuple(accumulate(heights[:-1], initial=0))
        self.query_one(Said).say(Content("\n").join(parts))

    @property
    def _at(self) -> int:
        """Return which is chosen; the worst if that one is gone."""
        return next((at for at, each in enumerate(self._found) if each.message == self._current), 0)

    def action_move(self, by: int) -> None:
        at = self._at + (by if self._current else 0)
        self._current = self._found[max(0, min(at, len(self._found) - 1))].message
        self._redraw()
        self.call_after_refresh(self.scroll_to, y=self._tops[self._at], animate=False)

    def action_choose(self) -> None:
        self.post_message(self.Chosen(self._found[self._at]))

    def on_click(self, event: events.Click) -> None:
        if not self.can_focus:
            return
        line = event.screen_y - self.query_one(Said).region.y
        self._current = self._found[max(0, bisect_right(self._tops, line) - 1)].message
        self._redraw()
        self.action_choose()


def _short(found: Sequence[ShownProblem], width: int) -> Content:
    worst = found[0]
    more = f"  (and {len(found) - 1} more; 1 shows them)" if len(found) > 1 else ""
    message = shorten(escape(worst.message), width - 2 - len(more))
    parts = [Content.assemble((f"{worst.glyph} ", f"${worst.colour}"), (message, "bold"), (more, "dim"))]
    advice = worst.note or (f"→ {escape(worst.hint)}" if worst.hint else "")
    if advice:
        parts.append(Content.styled(f"  {shorten(advice, width - 2)}", "dim" if worst.note else ""))
    return Content("\n").join(parts)


def _headline(trouble: ShownProblem, width: int) -> Content:
    return Content.assemble((f"{trouble.glyph} ", f"${trouble.colour}"), shorten(escape(trouble.message), width - 2))


def _lines(trouble: ShownProblem, width: int, style: str) -> Content:
    message = hang(escape(trouble.message), width, 2)
    parts = [Content.assemble((f"{trouble.glyph} ", f"${trouble.colour}"), (message, style))]
    if trouble.hint:
        parts.append(Content(f"  → {hang(escape(trouble.hint), width, 4)}"))
    if trouble.note:
        parts.append(Content.styled(f"  {hang(escape(trouble.note), width, 2)}", "dim"))
    return Content("\n").join(parts)
