"""The last line: the keys that do something where the focus is, and the mouse on them does the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen

from kmstui.commands import name_of
from kmstui.text import width
from kmstui.widgets.steady import Drawn

_HELP = "question_mark"
_ALWAYS = (_HELP, "ctrl+p", "q")
_LAST = ("z", "w", "r", "p", "t", "colon", *_ALWAYS)
"""Keys that every screen has: they come after those that only this one has."""
_FIRST = ("zoom_end", "zoom_next(1)")


@dataclass(frozen=True)
class _Entry:
    key: str
    shown: str
    title: str
    refused: bool
    rank: int

    @property
    def columns(self) -> int:
        return width(self.shown) + width(self.title) + 3


class KeyLine(Drawn):
    """The last line, with the keys. What What does not fit is left out, but never help, palette and quit; help is then
    said to have more keys. A key that would be refused is dimmed."""

    _spans: tuple[tuple[int, int, str], ...] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._updated)

    def _updated(self, screen: Screen[object]) -> None:
        self.redraw()

    def draw(self) -> Content:
        entries = sorted(self._entries(), key=lambda entry: entry.rank)
        kept = [entry for entry in entries if entry.key in _ALWAYS]
        room = self.size.width - sum(entry.columns for entry in entries)
        if room < 0:
            kept = [replace(entry, title="More keys") if entry.key == _HELP else entry for entry in kept]
        room = self.size.width - sum(entry.columns for entry in kept)
        shown = []
        for entry in entries:
            if entry.key in _ALWAYS:
                continue
            if entry.columns > room:
                break
            shown.append(entry)
            room -= entry.columns
        parts, spans, at = list[Content](), list[tuple[int, int, str]](), 0
        for entry in (*shown, *kept):
            key, title = ("dim", "dim strike") if entry.refused else ("bold $accent", "dim")
            parts.append(Content.assemble(" ", (entry.shown, key), " ", (entry.title, title), " "))
            spans.append((at, at + entry.columns, entry.key))
            at += entry.columns
        self._spans = tuple(spans)
        return Content("").join(parts)

    def on_click(self, event: events.Click) -> None:
        for left, right, key in self._spans:
            if left <= event.x < right:
                self.app.simulate_key(key)

    def _entries(self) -> Iterator[_Entry]:
        seen = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in seen or not self._offered(binding):
                continue
            seen.add(binding.action)
            yield _Entry(binding.key, self._shown(binding), binding.description, self._refused(binding), _rank(binding))

    def _shown(self, binding: Binding) -> str:
        return binding.key_display or self.app.get_key_display(binding)

    def _offered(self, binding: Binding) -> bool:
        is_offered, name = getattr(self.screen, "is_offered", None), name_of(binding.action)
        return not name or is_offered is None or bool(is_offered(name))

    def _refused(self, binding: Binding) -> bool:
        why_not = getattr(self.screen, "why_not", None)
        name = name_of(binding.action)
        return bool(name and why_not is not None and why_not(name))


def _rank(binding: Binding) -> int:
    """Return its place in the line: the way out of where one is comes first."""
    return 0 if binding.action in _FIRST else 2 if binding.key in _LAST else 1
