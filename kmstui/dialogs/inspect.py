"""Asks for a value to be inspected: pasted or typed, or in a file; and whether it shall be opened."""

from __future__ import annotations

from collections.abc import Iterable

from textual import on
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from kmstui import actions
from kmstui.action import Action, Done
from kmstui.dialogs.dialog import Dialog, field
from kmstui.messages import Finished
from kmstui.view import Inspected

MOST_PATH = 4096


class _InspectDialog(Dialog):
    def worked(self, done: Done) -> None:
        # The screen says the rest.
        self.app.post_message(Finished(done))
        self.dismiss(done.outcome)


class PasteDialog(_InspectDialog):
    """A form for a value that is pasted. text: to begin with."""

    HELP = "Takes a value as it is, in base64 or hexadecimal digits, or as etcdctl or kmsctl printed it."

    def __init__(self, target: str, text: str = "") -> None:
        super().__init__(target, "Inspect a value", "Inspect")
        self._text = text[: actions.INSPECT_MOST + 1]

    def fields(self) -> Iterable[Widget]:
        yield Static(Content("Paste it; Tab, then Enter inspects it. The command takes it from stdin."))
        yield TextArea(self._text, id="value", soft_wrap=True, compact=True)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#ok" if self._text and not self.missing() else "#value").focus()

    @on(TextArea.Changed)
    def _pasted(self) -> None:
        if self.is_mounted:
            self.refresh_form()

    def draft(self) -> Action:
        return actions.inspect_text(self.query_one("#value", TextArea).text)

    def missing(self) -> str:
        text = self.query_one("#value", TextArea).text
        if len(text.encode(errors="replace")) > actions.INSPECT_MOST:
            return f"what is pasted must have {actions.INSPECT_MOST >> 10} KiB at most: put it in a file"
        return "" if text.strip() else "paste a value"


class FileDialog(_InspectDialog):
    """A form for a file whose value is to be explained."""

    HELP = "Reads a file on this machine, and explains the value in it."

    def __init__(self, target: str) -> None:
        super().__init__(target, "Inspect a file", "Inspect")

    def fields(self) -> Iterable[Widget]:
        yield field("file", Input(placeholder="path of the file", id="path", max_length=MOST_PATH, compact=True))

    def draft(self) -> Action:
        return actions.inspect_file(self.query_one("#path", Input).value or "FILE")

    def missing(self) -> str:
        return "" if self.query_one("#path", Input).value else "name a file"


class TryDialog(_InspectDialog):
    """A form that has kmsd try whether a value opens."""

    HELP = "Has kmsd decrypt the value, and says whether it opens. What is in it stays in kmsd and is never shown."

    def __init__(self, target: str, inspected: Inspected) -> None:
        super().__init__(target, "Try to open it", "Try")
        self._inspected = inspected

    def fields(self) -> Iterable[Widget]:
        yield Static(
            Content(
                "kmsd decrypts the value and says whether it opens. The audit records that, with you as the caller. "
                "What is in the value is never shown."
            )
        )

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#ok").focus()

    def draft(self) -> Action:
        return actions.attempt(self._inspected)
