"""What is wrong and what to do about it, from a View, worst first, each once. Pure; shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from kmstui import looks
from kmstui.looks import Colour
from kmstui.store import Moment, View
from kmstui.text import duration


@dataclass(frozen=True)
class Trouble:
    glyph: str
    colour: Colour
    message: str
    hint: str
    note: str = ""


def troubles(view: View, moment: Moment) -> tuple[Trouble, ...]:
    if view.status.error is not None:
        error = view.status.error
        return (Trouble("✕", Colour.BAD, error.message, error.hint, _aside(view, moment)),)
    seen: dict[str, Trouble] = {}
    for each in _answered(view):
        seen.setdefault(each.message, each)
    return tuple(seen.values())


def _aside(view: View, moment: Moment) -> str:
    """When it will be tried again, and how old the data is that still shows."""
    if view.paused:
        again = "paused: r tries again"
    elif view.due is None:
        again = "trying again"
    else:
        again = f"trying again in {max(1, ceil(view.due - moment.steady))} s"
    if view.status.value is None:
        return again
    old = duration(moment.steady - view.status.taken)
    state = looks.serving(view.status.value.state)
    return f"{again}; below is what was true {old} ago, then {state}"


def _answered(view: View) -> Iterator[Trouble]:
    status = view.status.value
    if status is None:
        return
    if not status.healthy:
        yield Trouble(looks.BAD, Colour.BAD, status.healthz, status.hint)
    for problem in sorted(status.problems, key=lambda each: not each.fatal):
        glyph, colour = (looks.BAD, Colour.BAD) if problem.fatal else (looks.WARN, Colour.WARN)
        yield Trouble(glyph, colour, problem.message, problem.hint)
    for what, error in (("keys", view.keys.error), ("slots", view.slots.error)):
        if error is not None and error.message != status.healthz:
            yield Trouble(looks.WARN, Colour.WARN, f"the {what} cannot be listed now: {error.message}", error.hint)
