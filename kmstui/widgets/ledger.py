"""A small table in a frame, of as many rows as there is room for: nothing in it is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual.content import Content

from kmstui.styles import Colour
from kmstui.text import pad, width
from kmstui.view import Moment, View
from kmstui.widgets.columns import Column, fit
from kmstui.widgets.panel import Panel
from kmstui.widgets.steady import set_title

_GAP = 2


@dataclass(frozen=True)
class Cell:
    """A cell. text: escaped."""

    text: str
    colour: Colour = Colour.PLAIN


@dataclass(frozen=True)
class LedgerHead:
    """A column as `Column`, for a table that is made whole each time."""

    title: str
    right: bool = False
    least: int | None = None
    optional: bool = False


class Ledger(Panel):
    """A small table in a panel."""

    heads: tuple[LedgerHead, ...] = ()

    def __init__(self, title: str, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(title, id=id, classes=classes)
        self._title = title

    def show(self, view: View, moment: Moment) -> None:
        set_title(self, Content(f"{self._title}{view.traffic.of}"))
        super().show(view, moment)

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        """Return the cells of each row."""
        raise NotImplementedError

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        # Ages are whole seconds at the finest.
        return view.traffic, view.keys.value, view.lost, int(moment.wall.timestamp())

    def empty(self, view: View) -> str:
        """Return what it says when there are no rows."""
        return "nothing yet"

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        rows = self.rows(view, moment)
        if not rows:
            yield Content.styled(self.empty(view), "dim")
            return
        natural = [max(width(head.title), *(width(row[at].text) for row in rows)) for at, head in enumerate(self.heads)]
        columns = [
            Column[object](head.title, lambda _, __: "", head.least, optional=head.optional) for head in self.heads
        ]
        widths = fit(columns, natural, self.columns, _GAP)
        gap = " " * _GAP
        titles = gap.join(pad(self.heads[at].title, wide, right=self.heads[at].right) for at, wide in widths)
        yield Content.styled(titles, "dim")
        for row in rows[: self.content_size.height - 1]:
            yield Content(gap).join(
                Content.styled(pad(row[at].text, wide, right=self.heads[at].right), f"${row[at].colour}")
                for at, wide in widths
            )
