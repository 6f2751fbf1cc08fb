"""The end of a rotation that was followed: what keeps the old key, what is asked, and what is left to somebody else."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kmsctl import confirm, diagnostics, files, output, stored
from kmsctl.output import OutputFormat
from kmsctl.rotate import view
from kmsctl.rotate.plan import RotationRun
from kmsctl.rotate.watch import RotationWatch
from kmsd.client.rotation import KeyTurnover, Timeline, retire_command, rewrite_command, short
from kmsd.client.timeline import FOLLOW


def name_objects(watch: RotationWatch, form: OutputFormat) -> None:
    """Name what kept the old key at the last scan, however the watch ended."""
    for each in watch.scan.shown if watch.scan is not None else ():
        if form is OutputFormat.JSON:
            output.emit_line({"event": "object", **stored.shown_document(each)})
    if form is not OutputFormat.JSON and watch.scan is not None:
        for line in stored.shown_lines(watch.scan):
            diagnostics.note(f"keeps the old key: {line}")


def finish(watch: RotationWatch, end: Timeline, plan: RotationRun) -> None:
    """Say what is left to be done by somebody, after all that could be watched."""
    turn = watch.turn
    if turn.old is None:
        return
    if plan.report is not None and watch.scan is not None:
        from kmsd.client.report import write_report

        files.write(plan.report, write_report(watch.scan.report()))
    if end.finished:
        diagnostics.hint("keep the old key until no backup of etcd needs it; then `kmsctl keys destroy` ends it")
        return
    if plan.place is None:
        if plan.rewrite is None:
            diagnostics.hint(f"rewrite what is stored: `{rewrite_command('secrets')}`")
        _hint_at_scan(turn, ["--endpoints", "URL"])
        return
    question = f"retire the old key {short(turn.old)} ({turn.old.label})?"
    if confirm.can_ask() and confirm.says_yes(question, left="it was not retired"):
        done = watch.retire()
        diagnostics.note(f"the key {done.previous_label!r} is retired, as {done.key.label!r}")
        diagnostics.hint("keep it until no backup of etcd needs it; then `kmsctl keys destroy` ends it")
        return
    if plan.report is not None:
        diagnostics.hint(f"`{retire_command(turn, plan.report)}` retires the old key")
    else:
        _hint_at_scan(turn, plan.place.arguments())


def _hint_at_scan(turn: KeyTurnover, arguments: Sequence[str]) -> None:
    scan = f"kmsctl etcd scan {shlex.join([*arguments, '--report', 'scan.json'])}"
    when = "" if turn.started is None else f" after {view.clock(turn.started + FOLLOW)}"
    retire = retire_command(turn, "scan.json")
    diagnostics.hint(f"`{scan}`{when}, and `{retire}` when it counts nothing under the old key")
