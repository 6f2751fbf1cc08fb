"""A frame with lines in it, made anew from each View and cut to its width. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message

from kmstui.styles import COLOURS, Colour
from kmstui.text import pad, shorten, width
from kmstui.view import Moment, View
from kmstui.widgets.steady import Drawn


class Panel(Drawn):
    """A frame with lines in it. title: of its frame."""

    @dataclass
    class Clicked(Message):
        """A note that it was clicked twice in a row."""

        panel: Panel

    def __init__(self, title: str, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self.border_title = Content(title)

    def on_click(self, event: events.Click) -> None:
        if event.chain == 2:
            self.post_message(self.Clicked(self))

    def draw(self) -> Content:
        if self.view is None or self.content_size.width <= 0:
            return Content("")
        lines = list(self.lines(self.view, self.moment))
        return Content("\n").join(lines[: max(1, self.content_size.height)])

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        """Return the lines."""
        raise NotImplementedError

    @property
    def columns(self) -> int:
        return self.content_size.width

    def field(self, name: str, text: str, wide: int, colour: Colour = Colour.PLAIN) -> Content:
        """Return a name of `wide` columns, and what is to be said of it. text: escaped."""
        return Content.assemble((pad(name, wide), "dim"), (shorten(text, self.columns - wide), f"${colour}"))

    def state(self, glyph: str, name: str, text: str, wide: int) -> Content:
        """Return a line as `field`, after a glyph in its colour."""
        value = shorten(text, self.columns - wide - 4)
        return Content.assemble(
            (f"{glyph} ", f"${COLOURS.get(glyph, Colour.PLAIN)}"), (f"{pad(name, wide)}  ", "dim"), value
        )

    def sides(self, left: Content, right: Content) -> Content:
        """Return one line with something at both ends; the left one gives way."""
        room = self.columns - right.cell_length - 1
        left = left if left.cell_length <= room else left.truncate(max(0, room), ellipsis=True)
        return Content.assemble(left, " " * max(1, self.columns - left.cell_length - right.cell_length), right)


WAITING = Content.styled("waiting for the first answer", "dim")


def widest(names: list[str]) -> int:
    """Return the columns of the widest name."""
    return max((width(name) for name in names), default=0)
