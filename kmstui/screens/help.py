"""The help: what can be done where the focus is, what the signs mean, and the commands that tell the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from kmstui import limits
from kmstui.commands import name_of
from kmstui.screens.page import Page
from kmstui.text import hang
from kmstui.textual_compat import bindings_of
from kmstui.widgets.rows import Text

_SIGNS = """\
● serving, writes   ◐ serving, but look at it   ○ down   ✕ no answer, failed
◦ reads   ▲ pending   ▽ retired   hash: the start of sha256(key id), as kube-apiserver logs it"""
_COLUMNS = 72


class HelpScreen(ModalScreen[None]):
    """The help. subject: the screen that is explained, and what has the focus on it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", show=False),
    ]

    def __init__(self, subject: Screen[Any]) -> None:
        super().__init__()
        self._subject = subject

    def compose(self) -> ComposeResult:
        with Text() as box:
            box.border_title = "Help"
            box.border_subtitle = "Esc closes"
            yield Static(Content("\n").join(self._lines()))

    def _lines(self) -> Iterator[Content]:
        subject = self._subject
        name = subject.NAME if isinstance(subject, Page) else getattr(subject, "_heading", "")
        yield from _section(str(name), getattr(subject, "HELP", ""), ())
        if isinstance(subject, Page) and subject.SCREEN_COMMANDS:
            yield from _section(
                "",
                "",
                (
                    (subject.app.get_key_display(command.binding), self._told(subject, command.name, command.help))
                    for command in subject.SCREEN_COMMANDS
                    if subject.offers(command, subject.view)
                ),
            )
        focused = subject.focused
        nodes: list[DOMNode] = list(focused.ancestors_with_self) if focused is not None else [subject, subject.app]
        for node in nodes:
            if node is subject and isinstance(subject, Page):
                continue
            helped = getattr(node, "HELP", "") if node is not subject else ""
            title = "Everywhere" if node is subject.app else ""
            keys = tuple(_keys(node))
            if helped or keys:
                yield from _section(title, helped or "", keys)
        yield Content("")
        if isinstance(subject, Page) and subject.view is not None:
            yield Content(hang(limits.told(subject.view.limits), _COLUMNS, 0))
        yield Content.styled(_SIGNS, "dim")

    def _told(self, page: Page, command: str, said: str) -> str:
        why = page.why_not(command)
        return f"{said} Not now: {why}." if why else said


def _keys(node: DOMNode) -> Iterator[tuple[str, str]]:
    """Yield (keys, what they do) of a widget's own bindings."""
    seen: dict[str, list[Binding]] = {}
    for binding in bindings_of(node):
        if binding.description and not name_of(binding.action):
            seen.setdefault(f"{binding.action}\0{binding.description}", []).append(binding)
    for bindings in seen.values():
        shown = " ".join(dict.fromkeys(node.app.get_key_display(each) for each in bindings))
        yield shown, bindings[0].description


def _section(title: str, said: str, keys: Any) -> Iterator[Content]:
    if title:
        yield Content.styled(title, "bold $accent")
    if said:
        yield Content(hang(said, _COLUMNS, 0))
    for shown, told in keys:
        yield Content.assemble((f"{shown:<8}  ", "bold"), hang(told, _COLUMNS, 10))
    yield Content("")
