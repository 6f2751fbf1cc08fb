"""A form for one action: its fields, the kmsctl command that does the same, two buttons, and what came of it.

Asks the app to do the action (`Act`), never kmsd. Stays open with the reason if it fails, so that what was typed is
not lost; closes with a notification if it worked and there is no more to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Label, OptionList, RadioSet, Select, Static

from kmsd.client import ClientError, escape
from kmstui.action import Action, ActionOutcome, Done
from kmstui.dialogs.hints import in_a_dialog
from kmstui.messages import Act, Finished
from kmstui.shell import kmsctl
from kmstui.styles import FAILED, GOOD, WARN, Colour
from kmstui.text import hang

COMMANDS_SHOWN = 2
"""Commands of an action on several things that are shown; all are copied."""


class Dialog(ModalScreen[ActionOutcome | None]):
    """A form for one action. target: for the command. title: what it does. verb: on the button. danger: the focus
    begins on Cancel.

    Dismissed with the outcome, or None if nothing was done.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "row(1)", show=False),
        Binding("k", "row(-1)", show=False),
        Binding("escape", "leave", "Cancel", show=False),
        Binding("ctrl+y", "copy_command", "Copy the command", show=False),
        Binding("f1,question_mark", "app.help", "Help", show=False),
    ]
    AUTO_FOCUS = ""
    HELP: ClassVar[str] = ""
    AT_ONCE: ClassVar[bool] = False
    """Begin without being asked: there is nothing to decide."""

    def __init__(self, target: str, title: str, verb: str, *, danger: bool = False) -> None:
        super().__init__()
        self.target = target
        self._heading = title
        self._verb = verb
        self._danger = danger
        self._command = ""
        self._busy = False
        self._outcome: ActionOutcome | None = None
        self.refused = False
        """Whether kmsd has refused, in words that are shown, what it does if the label is given once more."""

    # What a dialog defines.

    def fields(self) -> Iterable[Widget]:
        """Return the form."""
        return ()

    def draft(self) -> Action:
        """Return what the form asks for as it stands, complete or not: it names the command."""
        raise NotImplementedError

    def missing(self) -> str:
        """Return what keeps the form from being complete; empty if nothing does."""
        return ""

    def preview(self) -> Action | None:
        """Return a dry run to be shown before anything is done."""
        return None

    # The frame.

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog") as box:
            box.border_title = Content(self._heading)
            box.can_focus = False
            with Vertical(id="fields"):
                yield from self.fields()
            yield Static(id="preview")
            yield Static(id="result")
            yield Static(id="command")
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button(Content(self._verb), id="ok", compact=True, variant="error" if self._danger else "primary")
                yield Static(id="why")

    def on_mount(self) -> None:
        self.query_one("#dialog").set_class(self._danger, "-danger")
        for name in ("#preview", "#result"):
            self.query_one(name).display = False
        self.refresh_form()
        self.look_again()
        first = self.query("#fields Input, #fields Select, #fields RadioSet")
        self.set_focus(self.query_one("#cancel") if self._danger or not first else first.first(Widget))
        if self.AT_ONCE and not self.missing():
            self._go()

    def look_again(self) -> None:
        """Ask for the preview."""
        wanted = self.preview()
        if wanted is not None:
            self._say("#preview", (Content.styled("… finding out what would be done", "dim"),))
            self.post_message(Act(wanted, self._previewed))

    def refresh_form(self) -> None:
        """Show the command, and whether the form is complete."""
        why = self.missing()
        self.query_one("#why", Static).update(Content(why))
        self.query_one("#ok", Button).disabled = bool(why) or self._busy
        draft = self.draft()
        commands = [kmsctl(self.target, *words, into=draft.into) for words in draft.commands]
        self._command = "\n".join(commands)
        shown = "\n".join(escape(command) for command in commands[:COMMANDS_SHOWN])
        more = f"\n… and {len(commands) - COMMANDS_SHOWN} more" if len(commands) > COMMANDS_SHOWN else ""
        self.query_one("#command", Static).update(
            Content.assemble((shown, f"${Colour.ACCENT}"), (f"{more}  ^y copies", "dim"))
        )

    @on(Input.Changed)
    @on(Select.Changed)
    @on(RadioSet.Changed)
    def _edited(self) -> None:
        if self.is_mounted:
            self.refresh_form()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        if not self.query_one("#ok", Button).disabled:
            self._go()

    @on(Button.Pressed, "#ok")
    def _pressed(self) -> None:
        self._go()

    @on(Button.Pressed, "#cancel")
    def _cancelled(self) -> None:
        self.action_leave()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return isinstance(self.focused, OptionList) if action == "row" else super().check_action(action, parameters)

    def action_row(self, by: int) -> None:
        """Move in the list of a choice that is open."""
        rows = self.focused
        if isinstance(rows, OptionList):
            rows.action_cursor_down() if by > 0 else rows.action_cursor_up()

    def action_leave(self) -> None:
        if self._busy:
            self.notify("it goes on; a notification will say what came of it", markup=False)
        self.dismiss(self._outcome)

    def action_copy_command(self) -> None:
        self.app.copy_to_clipboard(self._command)
        self.notify("copied the command", markup=False)

    def _go(self) -> None:
        action = self.draft()
        self._busy = True
        self.query_one("#ok", Button).disabled = True
        self._say("#result", (Content.styled(f"… {escape(action.name)}", "bold"),))
        self.post_message(Act(action, self._done))

    def _previewed(self, done: Done) -> None:
        if not self.is_mounted:
            return
        if done.outcome is not None:
            self._say("#preview", _outcome_lines(done.outcome, self._columns, plain=True))
        elif done.error is not None:
            self._say("#preview", _error_lines(done.error, self._columns, WARN, Colour.WARN))
            self._hear(done.error)

    def _hear(self, error: ClientError) -> None:
        self.refused = "--confirm" in error.hint
        self.refresh_form()

    def _done(self, done: Done) -> None:
        """Show what came of the action. Called on the event loop, maybe after the dialog was left."""
        self._busy = False
        if not self.is_mounted or self.app.screen is not self:
            self.app.post_message(Finished(done))
            return
        if done.error is not None:
            self._say("#result", _error_lines(done.error, self._columns, "✕", Colour.BAD))
            self.query_one("#ok", Button).label = Content("Try again" if done.error.retryable else self._verb)
            self._hear(done.error)
        elif done.outcome is not None:
            self._outcome = done.outcome
            self.worked(done)

    def worked(self, done: Done) -> None:
        """Follow success with a notification, unless there is more to show."""
        assert done.outcome is not None  # noqa: S101 - only called with one
        if not done.outcome.lines and not self.AT_ONCE:
            self.app.post_message(Finished(done))
            self.dismiss(done.outcome)
            return
        self._say("#result", _outcome_lines(done.outcome, self._columns))
        self.query_one("#preview").display = False
        self.query_one("#ok", Button).display = self.AT_ONCE
        self.refresh_form()
        cancel = self.query_one("#cancel", Button)
        cancel.label = "Close"
        cancel.focus()

    def _say(self, where: str, lines: Iterable[Content]) -> None:
        widget = self.query_one(where, Static)
        widget.display = True
        widget.update(Content("\n").join(lines))

    @property
    def _columns(self) -> int:
        return max(20, self.query_one("#dialog").scrollable_content_region.width)


def field(name: str, widget: Widget, advice: str = "") -> Horizontal:
    """Return a line of the form. advice: what is to be known, under it."""
    label = Label(Content(name), classes="name")
    return Horizontal(label, widget, Label(Content(advice), classes="advice"), classes="field")


def _outcome_lines(outcome: ActionOutcome, columns: int, *, plain: bool = False) -> Iterable[Content]:
    glyph, colour = (FAILED, Colour.BAD) if outcome.bad else (GOOD, Colour.GOOD)
    head = ("", "") if plain else (f"{glyph} ", f"${colour}")
    yield Content.assemble(head, (hang(outcome.message, columns, 2), "dim" if plain else "bold"))
    wide = max((len(name) for name, _ in outcome.lines), default=0) + 4
    for name, text in outcome.lines:
        yield Content.assemble((f"  {name:<{wide - 2}}", "dim"), hang(text, columns, wide))


def _error_lines(error: ClientError, columns: int, glyph: str, colour: Colour) -> Iterable[Content]:
    message = hang(escape(error.message), columns, 2)
    yield Content.assemble((f"{glyph} ", f"${colour}"), (message, "bold"))
    if error.hint:
        yield Content(f"  → {hang(escape(in_a_dialog(error.hint)), columns, 4)}")
    again = "trying again may help" if error.retryable else "trying again unchanged will not help"
    yield Content.styled(f"  {again}", "dim")
