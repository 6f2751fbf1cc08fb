"""The audit: what was done and what happened, as it is recorded; each record in full; and whether the chain is
whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from textual import on
from textual.containers import Container
from textual.widget import Widget

from kmsd.client import AuditRecord, escape
from kmstui import styles
from kmstui.actions import said
from kmstui.commands import ScreenCommand
from kmstui.dialogs.record import RecordDialog
from kmstui.dialogs.verify import VerifyDialog
from kmstui.screens.page import Page, tail_note, tail_waiting
from kmstui.styles import Colour
from kmstui.text import clock, duration, short_hash
from kmstui.view import Moment, Numbered, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.table import Table

_KINDS = {"admin": Colour.ACCENT, "event": Colour.WARN}


def _outcome_colour(row: Numbered[AuditRecord]) -> Colour:
    return styles.outcome(row.item.outcome).colour


AUDIT = ItemKind[Numbered[AuditRecord]](
    "Audit",
    (
        Column("seq", lambda row, _: str(row.item.seq), right=True, order=lambda row: row.item.seq),
        Column("time", lambda row, moment: clock(row.item.time, moment.wall)),
        Column("", lambda row, _: styles.outcome(row.item.outcome).glyph, fixed=1, colour=_outcome_colour),
        Column(
            "kind",
            lambda row, _: row.item.kind,
            fixed=5,
            colour=lambda row: _KINDS.get(row.item.kind, Colour.PLAIN),
            order=lambda row: row.item.kind,
        ),
        Column("action", lambda row, _: row.item.action, least=12, order=lambda row: row.item.action),
        Column(
            "key",
            lambda row, _: short_hash(row.item.key_id_sha256),
            fixed=8,
            optional=True,
            order=lambda row: row.item.key_id_sha256,
        ),
        Column("detail", lambda row, _: _said(row.item), least=16),
        Column(
            "ms",
            lambda row, _: _ms(row.item),
            fixed=7,
            right=True,
            optional=True,
            order=lambda row: row.item.latency_ms,
            falling=True,
        ),
        Column("tenant", lambda row, _: row.item.tenant, least=8, optional=True, order=lambda row: row.item.tenant),
        Column("caller", lambda row, _: row.item.caller, least=20, optional=True, order=lambda row: row.item.caller),
    ),
    lambda row: row.item.line,  # each chain has seqs of its own
    lambda row: (
        str(row.item.seq),
        row.item.kind,
        escape(row.item.action),
        escape(row.item.caller),
        row.item.key_id_sha256,
        escape(row.item.outcome),
        escape(row.item.detail),
        escape(row.item.reason),
        escape(row.item.tenant),
    ),
    lambda row: str(row.item.seq),
    "sequence number",
    data=lambda row: row.item,
    tail=True,
    command=(
        "audit",
        "tail",
    ),
)


def _said(record: AuditRecord) -> str:
    failed = styles.outcome(record.outcome).colour is Colour.BAD
    parts = [record.outcome] if failed else []
    # Why a call failed comes before which call it was.
    return ": ".join([*parts, *filter(None, (record.reason, record.detail))])


def _ms(record: AuditRecord) -> str:
    return f"{record.latency_ms:.1f}" if record.latency_ms else "-"


class AuditScreen(Page):
    """The screen of the audit."""

    NAME = "Audit"
    WANTS = frozenset({Want.AUDIT})
    HELP = (
        "Shows the end of the audit, the newest last: admin actions, events, and calls of the KMS APIs as far as they "
        "are recorded, which are numbered in a chain of their own. Every record holds the hash of the one before it "
        "in its chain; v proves that none is missing or changed."
    )
    SCREEN_COMMANDS = (
        ScreenCommand(
            "verify", "v", "Verify", "Check the chain of hashes over every file that is kept.", changes=False
        ),
    )
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        with Container(id="beside"):
            yield Listing(AUDIT, id="audit")
            yield Detail()

    def show_data(self, view: View, moment: Moment) -> None:
        told = " · ".join(filter(None, (_verdict(view, moment), tail_note(view, view.audit, moment))))
        self._listing.show(
            view.audit.items, moment, empty=tail_waiting(view, view.audit, "there are no records"), note=told
        )
        self.moved(view)

    def moved(self, view: View) -> None:
        row = self._listing.current
        facts = tuple(record_facts(row.item)) if row is not None else ()
        self.query_one(Detail).show(f"Record {row.item.seq}" if row is not None else "", facts)

    @property
    def _listing(self) -> Listing[Numbered[AuditRecord]]:
        found: Listing[Numbered[AuditRecord]] = self.query_one("#audit", Listing)
        return found

    def begin(self, name: str) -> None:
        if self.view is not None:
            self.app.push_screen(VerifyDialog(self.view.target))

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        record: AuditRecord = event.item.item
        facts = (*record_facts(record), *_line_facts(record))
        self.app.push_screen(RecordDialog(f"Record {record.seq}", facts, record))


def _verdict(view: View, moment: Moment) -> str:
    verdict = view.verdict.value
    if verdict is None:
        return ""
    glyph = styles.GOOD if verdict.intact else styles.FAILED
    return f"{glyph} {said(verdict)}, {duration(moment.steady - view.verdict.taken)} ago"


def record_facts(record: AuditRecord) -> Iterator[Fact]:
    """Return a record as lines of names and values."""
    look = styles.outcome(record.outcome)
    yield Fact("time", record.time.isoformat(timespec="milliseconds").replace("+00:00", "Z") if record.time else "-")
    yield Fact("kind", escape(record.kind))
    yield Fact("action", escape(record.action))
    yield Fact("outcome", escape(str(look)), look.colour)
    if record.detail:
        yield Fact("detail", escape(record.detail))
    if record.reason:
        yield Fact("reason", escape(record.reason))
    if record.tenant:
        yield Fact("tenant", escape(record.tenant))
    yield Fact("caller", escape(record.caller) or "-")
    yield Fact("sha256", escape(record.key_id_sha256) or "-")
    if record.latency_ms:
        yield Fact("took", f"{record.latency_ms:.3f} ms")


def _line_facts(record: AuditRecord) -> Iterator[Fact]:
    """Yield what the line in the file says beyond the rest; the line itself if it is no JSON."""
    try:
        document: Any = json.loads(record.line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        yield Fact("line", escape(record.line))
        return
    yield Fact("", "")
    for name, value in list(document.items())[:64]:
        yield Fact(escape(name[:24]), escape(value if isinstance(value, str) else json.dumps(value))[:2000])
