"""One action made of several, done one after the other, with what came of each. Knows no widget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kmsd.client import ClientError, Unreachable, escape
from kmstui.action import Action, ActionOutcome, Done

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient


def several(name: str, parts: Sequence[Action]) -> Action:
    """Do one action after another. What kmsd refuses does not stop the next one; that it does not answer does."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        done = tuple(_one_by_one(parts, kmsd))
        failed = sum(each.error is not None for each in done)
        tally = f"{len(done) - failed} of {len(done)}"
        lines = tuple(("✕" if each.error is not None else "✔", _part(each)) for each in done)
        return ActionOutcome(f"{name}: {tally} done", lines, bad=failed > 0, parts=done)

    return Action(name, (), call, changes=any(part.changes for part in parts), parts=tuple(parts))


def asked(parts: Sequence[Action]) -> Action:
    """Ask kmsd about each of several actions, which are dry runs; only what it refuses is told in full."""
    every = several("ask about each", parts)

    def call(kmsd: AdminClient) -> ActionOutcome:
        found = every.call(kmsd)
        refused = tuple(line for line, part in zip(found.lines, found.parts, strict=True) if part.error is not None)
        return replace(
            found,
            message=f"nothing speaks against {len(found.parts) - len(refused)} of {len(found.parts)}",
            lines=refused,
        )

    return replace(every, call=call)


def _one_by_one(parts: Sequence[Action], kmsd: AdminClient) -> Iterator[Done]:
    gone: ClientError | None = None
    for part in parts:
        if gone is not None:
            yield Done(part, error=gone)
            continue
        try:
            yield Done(part, part.call(kmsd))
        except ClientError as error:
            yield Done(part, error=error)
            if isinstance(error, Unreachable):
                gone = Unreachable(
                    "not tried, for kmsd did not answer before", "try again", "UNAVAILABLE", retryable=True
                )


def _part(done: Done) -> str:
    if done.outcome is not None:
        said = "; ".join((done.outcome.message, *(f"{name} {text}" for name, text in done.outcome.lines)))
    elif done.error is not None:
        said = escape(done.error.message) + (f" → {escape(done.error.hint)}" if done.error.hint else "")
    else:
        said = ""
    return f"{done.action.name}: {said}"
