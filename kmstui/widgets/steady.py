"""Pieces of the screen that are painted only when what they say has changed: over ssh every line costs."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kmstui.memoize import identical
from kmstui.view import Moment, View


def same(one: Content | None, other: Content | None) -> bool:
    """Return text and styles alike; Content's own comparison looks at the text alone."""
    if one is None or other is None:
        return one is other
    return one.plain == other.plain and one.spans == other.spans


class Drawn(Widget):
    """A widget made from each View, and painted when that makes a difference."""

    view: View | None = None
    moment: Moment
    _content: Content | None = None
    _grounds: tuple[object, ...] | None = None

    def show(self, view: View, moment: Moment) -> None:
        self.view, self.moment = view, moment
        grounds = self.grounds(view, moment)
        if grounds is None or self._grounds is None or not identical(grounds, self._grounds):
            self._grounds = grounds
            self.redraw()

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        """Return all that it is made from; while these are the same objects it is not even made again. None: always."""
        return None

    def redraw(self) -> None:
        """Paint anew if there is something new."""
        content = self.draw()
        if not same(content, self._content):
            self._content = content
            self.refresh()

    def draw(self) -> Content:
        """Return what it says, for its present size. Called with a View only if there is one: look at `view`."""
        raise NotImplementedError

    def render(self) -> Content:
        if self._content is None:
            self._content = self.draw()
        return self._content

    def on_resize(self) -> None:
        self._content = None
        self.refresh()


class Said(Static):
    """A text that may change its height."""

    _said: Content | None = None

    def say(self, content: Content, *, fits: bool = False) -> None:
        """Show a text. fits: no line is wider than this, so that it is as high as it has lines. Only another height
        makes the screen be laid out anew, which takes long."""
        before = self._said
        if not same(content, before):
            self._said = content
            self.update(content, layout=not fits or before is None or _height(content) != _height(before))


def _height(content: Content) -> int:
    return content.plain.count("\n")


def set_title(widget: Widget, title: Content) -> None:
    """Set the title of a frame."""
    if widget.border_title != title.markup:
        widget.border_title = title


def set_subtitle(widget: Widget, subtitle: Content | None) -> None:
    """Set the subtitle of a frame."""
    if widget.border_subtitle != (subtitle.markup if subtitle is not None else None):
        widget.border_subtitle = subtitle
