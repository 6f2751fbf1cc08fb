"""A rotation followed to its end, on a screen or in lines: begun or resumed, shown, and finished with what is left.

What is seen comes from `watch`, how it looks from `view`, and what is said at the end from `ending`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from kmsctl import diagnostics, keyview, output
from kmsctl.diagnostics import UsageError
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsctl.rotate import rotating, view
from kmsctl.rotate.ending import finish, name_objects
from kmsctl.rotate.plan import RotationRun, resume_command
from kmsctl.rotate.rewrites import tell
from kmsctl.rotate.rotating import THIS_NODE, RotationOptions
from kmsctl.rotate.watch import Node, RotationWatch
from kmsd.client import ClientError, Conflict, Status, connect
from kmsd.client.rotation import (
    KeyTurnover,
    StageName,
    StageProgress,
    Timeline,
    short,
    turn_of,
    unfinished,
)
from kmsd.client.timeline import news

TICK = 1.0
"""Seconds between two pictures, for the timers on them."""


def follow(opts: Options, wanted: RotationOptions, plan: RotationRun) -> None:
    """Follow a rotation until nothing is left to be watched. Raises ClientError, UsageError, KeyboardInterrupt."""
    form = opts.form(OutputFormat.TABLE, OutputFormat.JSON)
    ends = time.monotonic() + plan.seconds if plan.seconds is not None else None
    if plan.rewrite is not None:
        from kmsctl.rewrite.rewriting import check

        check(plan.rewrite)
    with contextlib.ExitStack() as held:
        client = held.enter_context(connect(opts.target, timeout=opts.timeout))
        status, tenant = rotating.status_of(client, wanted.label)
        first = Node(_name(status, plan), client, tenant)
        others = [
            Node(name, held.enter_context(connect(socket, timeout=opts.timeout)), tenant) for name, socket in plan.nodes
        ]
        turn, rotated = _begin(first, status, others, wanted, again=plan.again)
        _introduce(turn, form, rotated=rotated)
        changed = threading.Event()
        watch = RotationWatch(
            turn,
            [first, *others],
            plan.place,
            timeout=opts.timeout,
            scan_every=plan.scan_every,
            show=plan.show,
            rewrite=plan.rewrite,
            wake=changed.set,
        )
        try:
            with watch:
                try:
                    end = _Show(watch, plan, changed, ends, form).run()
                    if plan.place is None:
                        watch.rewrites.check()
                finally:
                    tell(watch.rewrites, form)
                    name_objects(watch, form)
                finish(watch, end, plan)
        except KeyboardInterrupt:
            diagnostics.note("left; the rotation goes on by itself")
            diagnostics.hint(f"`{resume_command(plan, opts, wanted.label if tenant else '')}` resumes")
            raise


def _name(status: Status, plan: RotationRun) -> str:
    """Return the target's name among the nodes."""
    taken = {name for name, _ in plan.nodes}
    return status.host if status.host and status.host not in taken else THIS_NODE


def _begin(
    first: Node, status: Status, others: Sequence[Node], wanted: RotationOptions, *, again: bool
) -> tuple[KeyTurnover, bool]:
    """Return the rotation to watch, and whether it was made just now."""
    found = None if again or wanted.only_from else unfinished(status, first.client.list_keys())
    if found is not None:
        if wanted.label and wanted.label != found.write_label:
            raise UsageError(
                f"the label must be {found.write_label!r}, with which this kmsd writes, got {wanted.label!r}",
                "leave it out",
            )
        diagnostics.note(f"the rotation away from {short(found.old)} is not finished: watching it, not rotating again")
        diagnostics.hint("--again rotates once more all the same")
        return found, False
    _check_others(first.name, status, others)
    done = rotating.rotate(first.client, status, wanted)
    turn = turn_of(done, status.write_label, datetime.now(UTC))
    if turn is None:
        raise ClientError("kmsd did not say which key it made", "`kmsctl rotate --watch` looks for it", "INTERNAL")
    return turn, done.rotated


def _check_others(name: str, status: Status, others: Sequence[Node]) -> None:
    """Check that every node answers, and writes with the same key: a node with another token would not follow."""
    for node in others:
        writes = node.client.get_status(tenant=node.tenant).write_key
        if writes is None or status.write_key is None or writes.key_id != status.write_key.key_id:
            raise Conflict(
                f"{node.name} writes with {short(writes)} and {name} with {short(status.write_key)}",
                "nodes rotate together if they share a token; leave out --node for one that does not",
                "FAILED_PRECONDITION",
            )


def _introduce(turn: KeyTurnover, form: OutputFormat, *, rotated: bool) -> None:
    if form is OutputFormat.JSON:
        output.emit_line(view.turn_document(turn, rotated=rotated))
        return
    for role, key in (("old", turn.old), ("new", turn.new)):
        if key is not None:
            diagnostics.note(f"{role} key {key.key_id} {keyview.key_hash(key, wide=False)} {key.label}")


class _Show:
    """The view of a watch, until it has come as far as it can by itself."""

    def __init__(
        self, watch: RotationWatch, plan: RotationRun, changed: threading.Event, ends: float | None, form: OutputFormat
    ) -> None:
        self._watch = watch
        self._plan = plan
        self._changed = changed
        self._ends = ends
        self._form = form

    def run(self) -> Timeline:
        """Return the last timeline. Raises ClientError when time is up, KeyboardInterrupt."""
        while not self._watch.complete:
            self._changed.wait(TICK)
            self._changed.clear()
        return self._on_screen() if self._form is OutputFormat.TABLE and output.has_screen() else self._in_lines()

    def _act(self, found: Timeline) -> None:
        """Retire the old key if that is wanted and time; what was seen before has been shown."""
        retires = self._plan.retire and found[StageName.RETIRE].progress is StageProgress.ACTIVE
        if retires and not self._watch.rewrites.active:
            self._watch.try_to_retire()
            self._changed.set()

    def _ended(self, found: Timeline) -> bool:
        if found.finished or self._watch.rewrites.active:
            return found.finished
        followed = found[StageName.APISERVERS].progress is StageProgress.DONE
        if self._plan.place is None:
            return followed and (self._plan.rewrite is None or self._watch.rewrites.over)
        return not self._plan.retire and found[StageName.RETIRE].progress is StageProgress.ACTIVE

    def _check_time(self, found: Timeline) -> None:
        if self._ends is not None and time.monotonic() >= self._ends and found.present is not None:
            raise ClientError(
                f"the rotation is not finished: {found.present.title}",
                "`kmsctl rotate --watch` resumes; nothing is lost by waiting",
                "DEADLINE_EXCEEDED",
                retryable=True,
            )

    def _in_lines(self) -> Timeline:
        before: Timeline | None = None
        trouble = ""
        progress = diagnostics.ProgressLine()
        while True:
            found = self._watch.step(datetime.now(UTC))
            now = datetime.now(UTC)
            progress.clear()
            tell(self._watch.rewrites, self._form)
            for event in news(before, found):
                if self._form is OutputFormat.JSON:
                    output.emit_line(view.event_document(event, now))
                else:
                    output.emit(view.event_lines(event, now))
            if self._watch.trouble and self._watch.trouble != trouble:
                diagnostics.warning(self._watch.trouble)
            before, trouble = found, self._watch.trouble
            if self._ended(found):
                return found
            self._check_time(found)
            self._act(found)
            progress.show(self._watch.note)
            self._changed.wait(TICK)
            self._changed.clear()

    def _on_screen(self) -> Timeline:
        """Show the watch on a screen; what was seen last stays on the terminal, however it ends."""
        shown: list[Timeline] = []
        try:
            return self._draw(shown)
        finally:
            for found in shown:
                columns = output.columns()
                for line in view.picture(found, datetime.now(UTC), columns):
                    output.emit(output.painted(line, columns).rstrip() or " ")

    def _draw(self, shown: list[Timeline]) -> Timeline:
        """Draw the screen until the watch ends. shown: gets the last timeline."""
        from kmsctl import live

        foot = "q leaves, the rotation goes on" + ("; s scans now" if self._plan.place is not None else "")
        with live.take() as (screen, _):
            while True:
                found = self._watch.step(datetime.now(UTC))
                shown[:] = [found]
                size = screen.size()
                screen.draw(view.screen(found, datetime.now(UTC), size.columns, size.lines, self._watch.note, foot))
                if self._ended(found):
                    return found
                self._check_time(found)
                self._act(found)
                typed = screen.wait(TICK).lower()
                if "q" in typed:
                    raise KeyboardInterrupt
                if "s" in typed:
                    self._watch.scan_now()
