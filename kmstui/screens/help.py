"""What the keys and signs mean, and the commands that tell the same."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

_TEXT = """\
1 2      overview, slots
↑ ↓      choose a row; its detail is below the table
/        filter rows by a regular expression: label, key id,
         hash, state, type. Enter keeps it, Esc clears it
c        copy the key id of the chosen row (OSC 52)
r        read now, even while paused
p        pause and go on
+ -      read less often, more often
q        quit

● serving    ◐ serving, but look at it    ○ down    ✕ no answer
● write      ◦ readable    ▲ pending      ✕ unusable
hash         the start of sha256(key id), as kube-apiserver logs

The same on the command line:
  kmsctl status    kmsctl keys list -o wide    kmsctl slots

Esc closes this."""


class HelpScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", show=False),
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = "Help"
            yield Static(Content(_TEXT))
