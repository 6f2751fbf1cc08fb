"""The doctor: what a token can really do, tried out: each check, what was seen, and how to mend what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Check, Diagnosis, Outcome, escape
from kmstui import actions, plots, shell
from kmstui.action import Done
from kmstui.commands import ScreenCommand
from kmstui.dialogs.doctor import DoctorDialog
from kmstui.messages import Act
from kmstui.screens.page import Page
from kmstui.styles import GOOD, WARN, Colour, Look
from kmstui.text import duration, hang
from kmstui.view import Moment, View
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.steady import Said

_METER = 20
_LOOKS = {
    Outcome.OK: Look(GOOD, "works", Colour.GOOD),
    Outcome.WARNING: Look(WARN, "look at it", Colour.WARN),
    Outcome.FAILED: Look("✕", "failed", Colour.BAD),
    Outcome.NOT_APPLICABLE: Look("◦", "not here", Colour.PLAIN),
    Outcome.UNKNOWN: Look("?", "unknown", Colour.WARN),
}
_ORDER = (Outcome.FAILED, Outcome.WARNING, Outcome.UNKNOWN, Outcome.OK, Outcome.NOT_APPLICABLE)


def look(outcome: Outcome) -> Look:
    """Return the sign of a check's outcome."""
    return _LOOKS.get(outcome, _LOOKS[Outcome.UNKNOWN])


CHECKS = ItemKind[Check](
    "Checks",
    (
        Column("", lambda each, _: look(each.outcome).glyph, fixed=1, colour=lambda each: look(each.outcome).colour),
        Column(
            "outcome",
            lambda each, _: look(each.outcome).word,
            fixed=10,
            colour=lambda each: look(each.outcome).colour,
            order=lambda each: _ORDER.index(each.outcome),
        ),
        Column("check", lambda each, _: each.title, least=24, order=lambda each: each.title),
        Column("seen", lambda each, _: each.seen or "-", least=20),
        Column("what to do", lambda each, _: each.fix, least=20, optional=True),
    ),
    lambda each: f"{each.name}\0{each.title}",
    lambda each: (look(each.outcome).word, escape(each.title), escape(each.seen), escape(each.fix)),
    lambda each: each.fix or each.seen,
    "fix",
    order=("outcome", False),
    command=("doctor",),
)


class DoctorScreen(Page):
    """The screen of what a token really does."""

    NAME = "Doctor"
    HELP = (
        "Tries what a token can really do, whatever it lists, and says what kmsd writes with and what to mend. Calls "
        "are answered meanwhile. The keys that are tried are made for it and destroyed again. No PIN is tried. A proxy "
        "tries the TLS handshake and a round trip with each of its key managers."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("run", "d", "Run", "Try out a token, a minute on a slow one; a proxy tries its key managers."),
    )
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    _began: float | None = None
    """The time when the run that is under way began, on the steady clock."""
    _failed: Done | None = None

    def data(self) -> Iterable[Widget]:
        yield Said(id="doctor-head")
        with Container(id="beside"):
            yield Listing(CHECKS, id="checks")
            yield Detail()

    def show_data(self, view: View, moment: Moment) -> None:
        found = view.diagnosis.value
        lines = Content("\n").join(self._head(view, moment, self.size.width - 2))
        self.query_one("#doctor-head", Said).say(lines)
        checks = found.checks if found is not None else ()
        taken = f"{duration(moment.steady - view.diagnosis.taken)} ago" if found is not None else ""
        empty = "the checks come all at once when they are done" if self._began is not None else _offer(view)
        self._listing.show(checks, moment, empty=empty, note=taken)
        self.moved(view)

    def moved(self, view: View) -> None:
        check = self._listing.current
        facts = tuple(_facts(check)) if check is not None else ()
        self.query_one(Detail).show(escape(check.title) if check is not None else "", facts)

    @property
    def _listing(self) -> Listing[Check]:
        found: Listing[Check] = self.query_one("#checks", Listing)
        return found

    def refusal(self, name: str) -> str:
        return "it runs already" if self._began is not None else ""

    def begin(self, name: str) -> None:
        status = self.view.status.value if self.view is not None else None
        if self.view is None or status is None:
            return
        tokens = [each.name for each in sorted(status.tokens, key=lambda each: not each.write)]
        if len(tokens) > 1:
            self.app.push_screen(DoctorDialog(self.view.target, tokens), self._run)
        else:
            self._run("")

    def _run(self, token: str | None) -> None:
        if token is None or self.view is None:
            return
        self._began, self._failed = self.moment.steady, None
        self.post_message(Act(actions.diagnose(token), self._ran))
        self.show_data(self.view, self.moment)

    def _ran(self, done: Done) -> None:
        self._began = None
        self._failed = done if done.error is not None else None
        if self.is_mounted and self.view is not None:
            self.show_data(self.view, self.moment)

    def _head(self, view: View, moment: Moment, columns: int) -> Iterator[Content]:
        found = view.diagnosis.value
        if self._began is not None:
            took = max(0.0, moment.steady - self._began)
            bar = plots.meter(took, actions.TIMEOUT, _METER)
            what = "trying the key managers" if view.upstreams else "looking at the token"
            text = f"… {what}  {bar}  {duration(took)}, at most {duration(actions.TIMEOUT)}"
            yield Content.styled(text, "bold")
        elif self._failed is not None and self._failed.error is not None:
            error = self._failed.error
            yield Content.assemble(("✕ ", f"${Colour.BAD}"), (hang(escape(error.message), columns, 2), "bold"))
            if error.hint:
                yield Content(f"  → {hang(escape(error.hint), columns, 4)}")
        if found is not None:
            yield from _verdict(found, columns)
        command = shell.kmsctl(view.target, "doctor", *([found.token] if found is not None and found.token else []))
        yield Content.styled(escape(command), f"${Colour.ACCENT}")


def _verdict(found: Diagnosis, columns: int) -> Iterator[Content]:
    seen = look(found.outcome)
    failed, doubtful = (sum(each.outcome is outcome for each in found.checks) for outcome in _ORDER[:2])
    said = f"{failed} failed, {doubtful} to look at, of {len(found.checks)} checks"
    text = f"{_subject(found)}: {said}"
    yield Content.assemble((f"{seen.glyph} ", f"${seen.colour}"), (hang(text, columns, 2), "bold"))


def _offer(view: View) -> str:
    return "d tries each key manager" if view.upstreams else "d tries out a token"


def _subject(found: Diagnosis) -> str:
    """Return what was tried."""
    if found.provider == "proxy":
        return f"key managers {escape(found.token_label)}"
    name = found.token if found.token_label in ("", found.token) else f"{found.token} ({found.token_label})"
    kind = found.provider_title or found.provider or "unknown"
    return f"token {escape(name)} as {escape(kind)}"


def _facts(check: Check) -> Iterator[Fact]:
    seen = look(check.outcome)
    yield Fact("outcome", str(seen), seen.colour)
    yield Fact("seen", escape(check.seen) or "-")
    if check.fix:
        yield Fact("→", escape(check.fix))
