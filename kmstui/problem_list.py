"""The list of what is wrong and what to do about it, from a View, worst first, each once. Pure; shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

from kmsd.client import About, ClientError
from kmstui import styles
from kmstui.styles import Colour
from kmstui.text import duration
from kmstui.view import Moment, View


@dataclass(frozen=True)
class ShownProblem:
    """A problem as it is shown. page: the screen that has more to say of it; empty if `about` tells which."""

    glyph: str
    colour: Colour
    message: str
    hint: str
    note: str = ""
    page: str = ""
    about: About = field(default_factory=About)


def troubles(view: View, moment: Moment) -> tuple[ShownProblem, ...]:
    """Return what is wrong, the worst first."""
    if view.status.error is not None:
        error = view.status.error
        return (ShownProblem("✕", Colour.BAD, error.message, error.hint, _aside(view, moment)),)
    seen: dict[str, ShownProblem] = {}
    for each in _answered(view, moment):
        seen.setdefault(each.message, each)
    return tuple(seen.values())


def again(due: float | None, moment: Moment, *, paused: bool = False) -> str:
    """Return when something is tried again. due: on the steady clock; None: now."""
    if paused:
        return "paused: r tries again"
    if due is None:
        return "trying again"
    return f"trying again in {max(1, ceil(due - moment.steady))} s"


def _aside(view: View, moment: Moment) -> str:
    """Return when it will be tried again, and how old the data is that still shows."""
    text = again(view.due, moment, paused=view.paused)
    if view.status.value is None:
        return text
    old = duration(moment.steady - view.status.taken)
    state = styles.serving(view.status.value.state)
    return f"{text}; below is what was true {old} ago, then {state}"


def _answered(view: View, moment: Moment) -> Iterator[ShownProblem]:
    status = view.status.value
    if status is None:
        return
    if not status.healthy:
        # The same sentence is a problem as well, most often, and that says what it is about.
        about = next((each.about for each in status.problems if each.message == status.healthz), About())
        yield ShownProblem(styles.BAD, Colour.BAD, status.healthz, status.hint, about=about)
    for problem in sorted(status.problems, key=lambda each: not each.fatal):
        look = styles.problem(problem)
        yield ShownProblem(look.glyph, look.colour, problem.message, problem.hint, about=problem.about)
    verdict = view.verdict.value
    if verdict is not None and not verdict.intact:
        hint = "compare the files with copies kept elsewhere; v on the audit (6) checks again"
        yield ShownProblem(
            styles.FAILED, Colour.BAD, f"the audit's chain is broken: {verdict.problem}", hint, page="Audit"
        )
    if view.changed_token:
        yield ShownProblem(
            styles.WARN,
            Colour.WARN,
            f"kmsd is on another token than before: it was {view.changed_token}",
            "if nobody meant that, look at the configuration (7) and the slots (2); r puts this away",
            page="Tokens",
        )
    for page, what, error, due in _failures(view):
        if error.message != status.healthz:
            note = again(due, moment, paused=view.paused) if due is not None else ""
            yield ShownProblem(styles.WARN, Colour.WARN, f"{what} now: {error.message}", error.hint, note, page)


def _failures(view: View) -> Iterator[tuple[str, str, ClientError, float | None]]:
    """Yield (screen that it is for, what fails, why, when it is tried again)."""
    readings = (
        ("Keys", "the keys cannot be listed", view.keys.error),
        ("Tokens", "the slots cannot be listed", view.slots.error),
        ("Config and logs", "the configuration cannot be read", view.config.error),
    )
    for page, what, error in readings:
        if error is not None:
            yield page, what, error, None
    streams = (
        ("Traffic", "no statistics come", view.traffic.error, view.traffic.due),
        ("Traffic", "no requests come", view.requests.error, view.requests.due),
        ("Audit", "no audit records come", view.audit.error, view.audit.due),
    )
    for page, what, error, due in streams:
        if error is not None:
            yield page, what, error, due
