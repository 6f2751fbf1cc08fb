"""Proves the audit's chain, and shows what came of it."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kmstui import actions
from kmstui.action import Action
from kmstui.dialogs.dialog import Dialog


class VerifyDialog(Dialog):
    """A dialog that has the audit proved at once."""

    AT_ONCE = True
    HELP = "Reads every audit file that is kept and checks the chain of hashes, record by record."

    def __init__(self, target: str) -> None:
        super().__init__(target, "Verify the audit", "Verify again")

    def fields(self) -> Iterable[Widget]:
        text = "Every record holds the hash of the one before it: a line that was changed, dropped or moved is found."
        yield Static(Content(text))

    def draft(self) -> Action:
        return actions.verify()
