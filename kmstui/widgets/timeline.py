"""A rotation's stages, one under the other, with each node's state and the commands that are left to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from textual.app import ComposeResult
from textual.content import Content

from kmsd.client import escape
from kmsd.client.rotation import NodeView, Stage, StageProgress, Timeline
from kmstui.styles import Colour
from kmstui.text import clock, duration, hang, pad, width
from kmstui.view import Moment
from kmstui.widgets.rows import Text
from kmstui.widgets.steady import Said

_LOOKS = {
    StageProgress.DONE: ("✔", Colour.GOOD),
    StageProgress.ACTIVE: ("▶", Colour.ACCENT),
    StageProgress.WAITING: ("○", Colour.PLAIN),
    StageProgress.STUCK: ("◐", Colour.WARN),
}
_NODE_LOOKS = {**_LOOKS, StageProgress.ACTIVE: ("…", Colour.ACCENT)}


class TimelineView(Text, can_focus=True):
    """A view of a rotation's stages."""

    HELP = "Shows the stages of the rotation. ↑ ↓ j k scroll. ✔ done, ▶ under way, ◐ somebody should look, ○ not yet."

    def compose(self) -> ComposeResult:
        yield Said()

    def show(self, found: Timeline, moment: Moment) -> None:
        columns = self.size.width - 1  # a scrollbar may come
        if columns > 0:
            self.say(stage_lines(found, moment, columns))

    def say(self, lines: Iterable[Content]) -> None:
        self.query_one(Said).say(Content("\n").join(lines))


def stage_lines(found: Timeline, moment: Moment, columns: int) -> Iterator[Content]:
    """Return the lines of one stage."""
    wide = max(width(stage.title) for stage in found.stages)
    roomy = columns >= 100
    for number, stage in enumerate(found.stages, 1):
        yield from _stage(number, stage, moment, columns, wide)
        if roomy:
            yield Content("")


def _stage(number: int, stage: Stage, moment: Moment, columns: int, wide: int) -> Iterator[Content]:
    glyph, colour = _LOOKS[stage.progress]
    later = stage.progress is StageProgress.WAITING
    indent = 7 + wide
    head = Content.assemble(
        (f"{glyph} ", f"${colour}"),
        (f"{number} ", "dim"),
        (pad(stage.title, wide), "dim" if later else "bold"),
        "   ",
    )
    said = list(_said(stage, moment, columns - indent))
    first = said[0] if said else Content("")
    yield Content.assemble(head, first)
    for more in said[1:]:
        yield Content.assemble(" " * indent, more)
    for command in stage.commands:
        text = hang(command, columns - 4, 2)
        yield Content.assemble("    ", (f"$ {text}", "dim" if later else f"${Colour.ACCENT}"))


def _said(stage: Stage, moment: Moment, room: int) -> Iterator[Content]:
    """Yield the lines beside a stage's title."""
    if stage.text:
        due = _due(stage.due, moment)
        for line in Content(f"{escape(stage.text)}{due}").wrap(max(10, room)):
            yield line.stylize("dim") if stage.progress is StageProgress.WAITING else line
    nodes = [_node(node, moment) for node in stage.nodes]
    together = Content("   ").join(nodes)
    if nodes and together.cell_length <= room:
        yield together
    else:
        yield from (node if node.cell_length <= room else node.truncate(room, ellipsis=True) for node in nodes)


def _node(node: NodeView, moment: Moment) -> Content:
    glyph, colour = _NODE_LOOKS[node.progress]
    at = f" {clock(node.at, moment.wall)}" if node.at is not None else ""
    text = f" {escape(node.text)}" if node.text else ""
    return Content.assemble(
        (escape(node.node), "bold"), " ", (glyph, f"${colour}"), at, (f"{text}{_due(node.due, moment)}", "dim")
    )


def _due(due: datetime | None, moment: Moment) -> str:
    if due is None:
        return ""
    left = (due - moment.wall).total_seconds()
    return f", ≤ {duration(left)}" if left >= 0 else f", {duration(-left)} overdue"
