"""Actions as data: a name, the kmsctl command that does the same, and the call. Knows no widget.

A call runs in a thread of the store's, with its client; nothing here is called by a widget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from kmsd.client import (
    AuditVerdict,
    ClientError,
    Filter,
    Key,
    KeyTest,
    KeyType,
    Reversion,
    Rotation,
    ScanReport,
    Timing,
    escape,
)
from kmsd.client import Outcome as Check
from kmsd.client.rotation import turn_of
from kmstui import shell
from kmstui.action import Action, ActionOutcome
from kmstui.shell import address
from kmstui.text import key_type, milliseconds, plural, short_hash
from kmstui.view import Inspected, Reading, View

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

TIMEOUT = 60.0
"""Seconds for one action: a slow token takes its time to make a key."""


INSPECT_MOST = 1 << 20
"""Bytes that are looked at."""


def generate(label: str, key_type_: KeyType, bits: int, token: str = "") -> Action:
    """Make a key."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        made = kmsd.generate_key(label, type=key_type_, bits=bits, token=token, timeout=TIMEOUT)
        beside = f", and {escape(made.companion.label)} beside it" if made.companion is not None else ""
        return ActionOutcome(f"made {_named(made.key)}{beside}", key=made.key)

    return Action(f"make {escape(label)}", shell.keygen(label, key_type_, bits, token), call)


def relabel(key: Key, label: str, confirm: str = "") -> Action:
    """Give a key another label."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        answer = kmsd.relabel_key(address(key), label, confirm_label=confirm, timeout=TIMEOUT)
        return ActionOutcome(f"{escape(answer.previous_label)} is now {_named(answer.key)}", key=answer.key)

    return Action(f"relabel {escape(key.label)}", shell.relabel(key, label, confirm), call)


def adopt(key: Key) -> Action:
    """Give a key id to a key without one."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        adopted = kmsd.adopt_key(key.label, timeout=TIMEOUT)
        return ActionOutcome(f"{escape(key.label)} has the key id {escape(adopted.key_id)} now", key=adopted)

    return Action(f"adopt {escape(key.label)}", shell.adopt(key), call)


def test(key: Key) -> Action:
    """Encrypt and decrypt with a key, and time it."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        return _tested(kmsd.test_key(address(key), timeout=TIMEOUT))

    return Action(f"test {escape(key.label)}", shell.test(key), call, changes=False)


def retire(key: Key, report: str = "", confirm: str = "", *, dry_run: bool = False) -> Action:
    """Retire a key. report: path of what a scan of etcd counted; empty: none."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        counted = _report(report) if report else None
        answer = kmsd.retire_key(address(key), scan=counted, confirm_label=confirm, dry_run=dry_run, timeout=TIMEOUT)
        if dry_run:
            return ActionOutcome("nothing speaks against it")
        return ActionOutcome(
            f"{escape(answer.previous_label)} is retired: it still decrypts, and may be destroyed", key=answer.key
        )

    words = shell.retire(key, report, confirm)
    return Action(f"retire {escape(key.label)}", _dry(words, dry_run), call, changes=not dry_run)


def destroy(key: Key, report: str = "", confirm: str = "", *, dry_run: bool = False) -> Action:
    """Destroy a key. report: path of what a scan of etcd counted; empty: none."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        counted = _report(report) if report else None
        answer = kmsd.destroy_key(address(key), scan=counted, confirm_label=confirm, dry_run=dry_run, timeout=TIMEOUT)
        beside = f", and {escape(answer.companion.label)} with it" if answer.companion is not None else ""
        verb = "destroyed" if answer.destroyed else "nothing speaks against destroying"
        return ActionOutcome(f"{verb} {_named(answer.key)}{beside}")

    words = shell.destroy(key, report, confirm)
    return Action(f"destroy {escape(key.label)}", _dry(words, dry_run), call, changes=not dry_run)


def rotate(label: str, from_key_id: str, token: str = "", *, dry_run: bool = False) -> Action:
    """Make a new write key, or find out what that would do."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        answer = kmsd.rotate_key(label, from_key_id=from_key_id, token=token, dry_run=dry_run, timeout=TIMEOUT)
        outcome = replace(_rotated(answer, dry_run=dry_run), lines=_steps(answer))
        turn = turn_of(answer, label, datetime.now(UTC))

        def effect(view: View, _: float) -> View:
            return replace(view, turn=turn)

        return replace(outcome, effect=effect) if turn is not None and answer.rotated else outcome

    return Action(
        f"rotate {escape(label)}", _dry(shell.rotate(label, from_key_id, token), dry_run), call, changes=not dry_run
    )


def revert(label: str, from_key_id: str, *, own: bool = True, dry_run: bool = False) -> Action:
    """Make another write key after a bad rotation. own: whether the label is kmsd's own, which needs no name."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        answer = kmsd.revert_key(label, from_key_id=from_key_id, dry_run=dry_run, timeout=TIMEOUT)
        undone = tuple(("✕" if not at else "", escape(text)) for at, text in enumerate(answer.not_undone))
        if dry_run:
            return ActionOutcome("what would be done, and what it cannot undo", (*_steps(answer), *undone))
        new = answer.new
        message = (
            f"reverted: {_named(new)} writes now" if new is not None and answer.reverted else "nothing was reverted"
        )
        return ActionOutcome(message, (*_steps(answer), *undone), key=new)

    return Action("revert", _dry(shell.revert(from_key_id, "" if own else label), dry_run), call, changes=not dry_run)


def read_report(path: str) -> Action:
    """Read the report of a scan of etcd; kmsd is not asked."""

    def here() -> ActionOutcome:
        found = _report(path)

        def effect(view: View, _: float) -> View:
            return replace(view, report=(path, found))

        unknown = f", {found.unknown:,} not understood" if found.unknown else ""
        return ActionOutcome(
            f"read the report: {found.objects:,} objects, {len(found.uses)} keys{unknown}", effect=effect
        )

    return Action("read the report", shell.scan(path), lambda _: here(), changes=False, here=here)


def diagnose(token: str) -> Action:
    """Try what a token can do. token: its name in kmsd's configuration; empty: the write token. Keys are made for it
    and destroyed again, so it counts as a change."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        found = kmsd.diagnose(token, timeout=TIMEOUT)
        failed = sum(each.outcome is Check.FAILED for each in found.checks)

        def effect(view: View, steady: float) -> View:
            return replace(view, diagnosis=Reading(found, steady))

        said_ = f"{plural(failed, 'check')} of {len(found.checks)} failed" if failed else "no check failed"
        return ActionOutcome(f"doctor: {said_}", effect=effect, bad=failed > 0)

    return Action("doctor", ("doctor", token) if token else ("doctor",), call)


def inspect_text(text: str) -> Action:
    """Explain a value that was pasted."""
    return _inspect(lambda: text.encode(errors="surrogateescape"), "a pasted value", ("inspect", "-"))


def inspect_file(path: str) -> Action:
    """Explain the value in a file; ~ is understood."""
    return _inspect(partial(_value, path), path, shell.inspect(path))


def _inspect(read: Callable[[], bytes], source: str, words: tuple[str, ...]) -> Action:
    def call(kmsd: AdminClient) -> ActionOutcome:
        from kmsd.client import printed  # loaded only when there is something to inspect

        taken_out = printed.find(read())
        found = kmsd.inspect_ciphertext(taken_out.data, timeout=TIMEOUT)

        def effect(view: View, steady: float) -> View:
            return replace(view, inspected=Inspected(source, taken_out, found, words, steady))

        return ActionOutcome(f"inspected: {escape(found.format)}", effect=effect)

    return Action("inspect", words, call, changes=False)


def attempt(inspected: Inspected) -> Action:
    """Have kmsd decrypt a value that was explained, and say whether it opens."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        trial = kmsd.try_ciphertext(inspected.value.data, timeout=TIMEOUT)

        def effect(view: View, _: float) -> View:
            return replace(view, inspected=replace(inspected, trial=trial)) if view.inspected is inspected else view

        if isinstance(trial, ClientError):
            return ActionOutcome(f"it does not open: {escape(trial.message)}", effect=effect, bad=True)
        return ActionOutcome(f"it opens: decrypted with {escape(trial.label)}", effect=effect)

    verb, *rest = inspected.words
    return Action("try to open the value", (verb, "--try", *rest), call, changes=False)


def failures(wanted: Filter) -> Action:
    """Find out whether such calls have failed lately."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        with kmsd.watch_requests(backlog=1, follow=False, wanted=wanted, timeout=TIMEOUT) as batches:
            found = any(batch.requests for batch in batches)
        return ActionOutcome("calls failed", requests=wanted) if found else ActionOutcome("no such call failed")

    words = ["requests", "--failed"]
    words += ["--method", wanted.method] if wanted.method else []
    words += ["--code", wanted.code] if wanted.code else []
    words += ["--key", f"sha256:{wanted.key_id_sha256}"] if wanted.key_id_sha256 else []
    return Action("look for requests", tuple(words), call, changes=False)


def set_level(level: str) -> Action:
    """Set the log level."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        answer = kmsd.set_log_level(level, timeout=TIMEOUT)

        def effect(view: View, _: float) -> View:
            return replace(view, level=answer.level)

        return ActionOutcome(
            f"the log level is {escape(answer.level)} now, it was {escape(answer.previous)}", effect=effect
        )

    return Action(f"log {level}", shell.log_level(level), call)


def verify() -> Action:
    """Have kmsd prove the audit's chains."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        verdict = kmsd.verify_audit(timeout=TIMEOUT)

        def effect(view: View, steady: float) -> View:
            return replace(view, verdict=Reading(verdict, steady))

        return ActionOutcome(said(verdict), effect=effect, bad=not verdict.intact)

    return Action("verify the audit", shell.verify(), call, changes=False)


def said(verdict: AuditVerdict) -> str:
    """Say in a sentence what the proof of the audit came to."""
    if not verdict.intact:
        return f"the chain is broken: {escape(verdict.problem)}"
    spans = [
        f"{each.records:,} {'calls' if each.name == 'kms' else 'records'}, {each.first_seq} to {each.last_seq}"
        for each in verdict.chains
        if each.records
    ]
    return f"the chain is intact: {'; '.join(spans) or 'there are no records'}"


def _value(path: str) -> bytes:
    from kmstui import reports

    return reports.read_value(path, INSPECT_MOST)


def _report(path: str) -> ScanReport:
    from kmstui import reports  # what reads etcd's reports is loaded only when there is one

    return reports.read(path)


def _named(key: Key) -> str:
    digest = f", hash {short_hash(key.key_id_sha256)}" if key.key_id_sha256 else ""
    return f"{escape(key.label)} ({key_type(key)}{digest})"


def _tested(test: KeyTest) -> ActionOutcome:
    lines = (("encrypt", _timing(test.encrypt)), ("decrypt", _timing(test.decrypt)))
    return ActionOutcome(f"{test.rounds} round trips with {escape(test.key.label)}, every answer right", lines)


def _timing(timing: Timing) -> str:
    return (
        f"median {milliseconds(timing.median)}, from {milliseconds(timing.minimum)} to {milliseconds(timing.maximum)}"
    )


def _rotated(answer: Rotation, *, dry_run: bool) -> ActionOutcome:
    if dry_run:
        return ActionOutcome("what would be done")
    if answer.new is None or not answer.rotated:
        return ActionOutcome("nothing was rotated: another key writes already", key=answer.new)
    old = f"{short_hash(answer.old.key_id_sha256)} → " if answer.old is not None else ""
    return ActionOutcome(
        f"rotated {escape(answer.new.label)}: {old}{short_hash(answer.new.key_id_sha256)}", key=answer.new
    )


def _steps(answer: Rotation | Reversion) -> tuple[tuple[str, str], ...]:
    return tuple(("✔" if step.done else str(at), escape(step.text)) for at, step in enumerate(answer.steps, 1))


def _dry(words: tuple[str, ...], dry_run: bool) -> tuple[str, ...]:
    return (*words, "--dry-run") if dry_run else words
