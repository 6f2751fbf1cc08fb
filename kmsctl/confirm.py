"""Danger, graded: what must be said, typed, shown, or given as an option before kmsctl does it.

Asks only where somebody can answer: stdin and stderr are a terminal. Knows no command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from kmsctl import diagnostics, files
from kmsctl.diagnostics import ExitCode, UsageError
from kmsd.client import Conflict, ScanReport

T = TypeVar("T")

Confirm = Annotated[
    str,
    typer.Option("--confirm", metavar="LABEL", help="Label of the key once more: do it whatever speaks against it."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, or why not; change nothing.")]

Report = Annotated[
    str | None,
    typer.Option("--report", metavar="FILE", help="Report that `kmsctl etcd scan --report FILE` wrote."),
]


def evidence(report: str | None) -> ScanReport | None:
    """Read the report of a scan, if one is named. Raises ClientError."""
    from kmsd.client.report import REPORT_MAX, read_report

    if report is None:
        return None
    return read_report(
        files.read(report, "the report of a scan", most=REPORT_MAX, too_long="is it the report of a scan?")
    )


def can_ask() -> bool:
    """Return whether somebody at a terminal can answer."""
    return files.stdin_is_terminal() and diagnostics.on_terminal()


def agree(question: str, *, yes: bool, option: str = "--yes", why: str = "this cannot be undone") -> None:
    """Return if `yes`, or if the person at the terminal says so. why: it is asked. Raises UsageError where nobody can
    be asked."""
    if yes:
        return
    if not can_ask():
        raise UsageError(f"{why}, and there is no terminal to ask at", f"say {option} to do it")
    if not says_yes(question):
        decline("nothing was done")


def says_yes(question: str, *, left: str = "nothing was changed") -> bool:
    """Ask the person at the terminal. left: as for `answer`."""
    return answer(f"{question} [y/N] ", left=left).strip().lower() in ("y", "yes")


def answer(question: str, *, left: str = "nothing was changed") -> str:
    """Return what the person at the terminal types. left: what is so if they press Ctrl-C instead. Raises
    KeyboardInterrupt, after saying that."""
    diagnostics.ask(question)
    try:
        return files.read_line()
    except KeyboardInterrupt:
        diagnostics.screed("")
        diagnostics.note(f"interrupted; {left}")
        raise


def insist(
    act: Callable[[str], T], label: str, confirm: str, deed: str, *, ask: bool = True, what: str = "label"
) -> tuple[T, str]:
    """Call act(confirm); if kmsd wants the label once more, have it typed, and call act(label).

    label: of the key in question. deed: as "destroy it". ask: False where nothing is done anyway. what: it is typed, if
    not a label. Returns the answer and what was confirmed. Raises what act raises.
    """
    try:
        return act(confirm), confirm
    except Conflict as refusal:
        # What the label overrides, kmsd says with a hint at this very option; the rest nobody can override.
        if confirm or "--confirm" not in refusal.hint or not (ask and can_ask()):
            raise
        diagnostics.warning(refusal.message)
        diagnostics.hint(refusal.hint)
    if answer(f"type its {what} to {deed} all the same: ").rstrip("\r\n") != label:
        decline(f"that is not its {what}; nothing was done")
    return act(label), label


def decline(why: str) -> None:
    """Say why nothing is done, and exit as a failure."""
    diagnostics.error(why)
    raise typer.Exit(ExitCode.FAILED)
