"""The looks of states: a glyph, a word and a colour for each, so that none of the three is needed alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kmsd.client import Problem, ServingState
from kmstui.view import View


class Colour(StrEnum):
    """The names of colours in Textual's themes."""

    GOOD = "text-success"
    WARN = "text-warning"
    BAD = "text-error"
    ACCENT = "accent"
    PLAIN = "foreground"


@dataclass(frozen=True)
class Look:
    """A look of a state: a glyph, a word and a colour."""

    glyph: str
    word: str
    colour: Colour

    def __str__(self) -> str:
        return f"{self.glyph} {self.word}"


GOOD, WARN, BAD, FAILED = "●", "◐", "○", "✕"
COLOURS = {GOOD: Colour.GOOD, WARN: Colour.WARN, BAD: Colour.BAD, FAILED: Colour.BAD}

NO_ANSWER = Look(FAILED, "NO ANSWER", Colour.BAD)
CONNECTING = Look("…", "CONNECTING", Colour.PLAIN)

_SERVING = {
    ServingState.SERVING: Look(GOOD, "SERVING", Colour.GOOD),
    ServingState.DEGRADED: Look(WARN, "DEGRADED", Colour.WARN),
    ServingState.DOWN: Look(BAD, "DOWN", Colour.BAD),
}
_KEYS = {
    "write": Look("●", "write", Colour.GOOD),
    "readable": Look("◦", "reads", Colour.PLAIN),
    "companion": Look("◦", "companion", Colour.PLAIN),
    "signing": Look("◦", "signs", Colour.PLAIN),
    "pending": Look("▲", "pending", Colour.WARN),
    "archived": Look("▽", "retired", Colour.PLAIN),
    "unusable": Look("✕", "unusable", Colour.BAD),
    "planted": Look("✕", "planted", Colour.BAD),
}


def serving(state: ServingState) -> Look:
    """Return the look of a state of kmsd."""
    return _SERVING.get(state, Look("?", "UNKNOWN", Colour.WARN))


def key(state: str) -> Look:
    """Return the look of a key's state."""
    return _KEYS.get(state, Look("?", "unknown", Colour.WARN))


def now(view: View) -> Look:
    """Return the one state to show: whether kmsd answers, else what it says of itself."""
    if view.status.error is not None:
        return NO_ANSWER
    if view.status.value is None:
        return CONNECTING
    return serving(view.status.value.state)


def problem(found: Problem) -> Look:
    """Return the look of a problem."""
    if found.about.tampered:
        # A failure, though kmsd serves.
        return Look(FAILED, "", Colour.BAD)
    return Look(BAD, "", Colour.BAD) if found.fatal else Look(WARN, "", Colour.WARN)


def outcome(code: str) -> Look:
    """Return the look of an outcome. Of a call: its canonical status name; of an audit record: its outcome."""
    good = code.lower() in ("ok", "success", "")
    return Look(GOOD, code or "-", Colour.GOOD) if good else Look("✕", code, Colour.BAD)
