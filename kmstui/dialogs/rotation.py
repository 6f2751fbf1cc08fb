"""The dialogs of a rotation: begin one, take one back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual import on
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Select, Static

from kmsd.client import Key, escape
from kmstui import actions
from kmstui.action import Action, Done
from kmstui.dialogs.dialog import Dialog, field
from kmstui.dialogs.keys import key_facts, warning
from kmstui.messages import Finished


class RotateDialog(Dialog):
    """A form for a rotation. tokens: names of those that keys can be made on, the write token first. old: the key that
    is replaced. serves: whether that one writes now."""

    HELP = (
        "Makes a new key and moves the write label to it. The old key goes on reading. Nothing restarts; what follows "
        "is on the screen of the rotation."
    )

    def __init__(self, target: str, label: str, old: Key | None, tokens: Sequence[str], *, serves: bool = True) -> None:
        super().__init__(target, f"Rotate {escape(label)}", "Rotate")
        self._serves = serves
        self._label = label
        self._old = old
        self._tokens = tuple(tokens)

    def fields(self) -> Iterable[Widget]:
        if self._old is not None:
            yield key_facts(self._old)
            if not self._serves:
                yield warning(
                    "this key cannot serve on its token: one that serves is made in its place, and it is kept"
                )
        if len(self._tokens) > 1:
            names = [(name, name) for name in self._tokens]
            yield field(
                "token",
                Select(names, value=self._tokens[0], allow_blank=False, type_to_search=False, id="token", compact=True),
            )

    def preview(self) -> Action:
        return self._action(dry_run=True)

    @on(Select.Changed)
    def _elsewhere(self) -> None:
        if self.is_mounted:
            self.look_again()

    def draft(self) -> Action:
        return self._action(dry_run=False)

    def _action(self, *, dry_run: bool) -> Action:
        chosen = self.query("#token")
        token = str(chosen.first(Select).value) if chosen else ""
        other = token if self._tokens and token != self._tokens[0] else ""
        from_id = self._old.key_id if self._old is not None else ""
        return actions.rotate(self._label, from_id, other, dry_run=dry_run)

    def worked(self, done: Done) -> None:
        # The timeline says the rest.
        self.app.post_message(Finished(done))
        self.dismiss(done.outcome)


class ReportDialog(Dialog):
    """A form for the report of a scan of etcd."""

    HELP = (
        "Reads what a scan of etcd counted, so that the timeline can say what still needs the old key. The scan itself "
        "is kmsctl's: it needs to reach etcd, which kmstui does not."
    )

    def __init__(self, target: str, report: str) -> None:
        super().__init__(target, "Report of a scan of etcd", "Read it")
        self._report = report

    def fields(self) -> Iterable[Widget]:
        yield Static(Content("Run the command below where etcd can be reached, then read the file that it wrote."))
        yield field("file", Input(self._report or "scan.json", id="report", compact=True))

    def draft(self) -> Action:
        return actions.read_report(self.query_one("#report", Input).value or "FILE")

    def missing(self) -> str:
        return "" if self.query_one("#report", Input).value else "name a file"


class RevertDialog(Dialog):
    """A form that reverts a rotation. own: whether the label is kmsd's own, and not a tenant's."""

    HELP = (
        "Makes a new write key after a bad rotation, on the token of the key before it, and says what it cannot undo."
    )

    def __init__(self, target: str, label: str, write: Key, *, own: bool = True) -> None:
        super().__init__(target, "Revert the last rotation", "Revert", danger=True)
        self._label = label
        self._own = own
        self._write = write

    def fields(self) -> Iterable[Widget]:
        yield Static(Content("Away from this key, to a new one on the token of the key before it:"))
        yield key_facts(self._write)
        yield warning("what was written with it still needs it: it stays, and reads")

    def preview(self) -> Action:
        return actions.revert(self._label, self._write.key_id, own=self._own, dry_run=True)

    def draft(self) -> Action:
        return actions.revert(self._label, self._write.key_id, own=self._own)
