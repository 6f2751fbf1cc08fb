"""`kmsctl audit`: who did what, and whether the record of it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.follow import FORMATS, Column, Listing, endless
from kmsctl.keyview import short_hash
from kmsctl.output import Format
from kmsctl.text import milliseconds, timestamp
from kmsd.client import AuditRecord, AuditRecords, AuditVerdict, connect, escape

BACKLOG_MAX = 10_000

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_LISTING: Listing[AuditRecord] = Listing(
    title="records",
    columns=(
        Column("SEQ", 6, lambda each: str(each.seq)),
        Column("TIME", 24, lambda each: timestamp(each.time) or ""),
        Column("KIND", 5, lambda each: each.kind),
        Column("ACTION", 14, lambda each: each.action),
        Column("OUTCOME", 10, lambda each: each.outcome),
        Column("KEY", 15, lambda each: short_hash(each.key_id_sha256)),
        Column("CALLER", 24, lambda each: each.caller),
        Column("DETAIL", 20, lambda each: each.detail),
        Column("MS", 7, lambda each: milliseconds(each.latency_ms), wide=True),
        Column("SHA256 OF THE KEY ID", 64, lambda each: each.key_id_sha256, wide=True),
    ),
    document=documents.audit_record,
    name=lambda each: str(each.seq),
)


@app.callback(invoke_without_command=True)
def audit(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl audit tail
      kmsctl audit verify

    The record of every admin action, and of KMS calls as far as kmsd is configured to keep them.
    """
    if ctx.invoked_subcommand is None:
        diagnostics.screed(ctx.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command(short_help="Show the last records, and with -f those to come.")
def tail(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those to come.")] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", min=0, max=BACKLOG_MAX, help="How many of the last ones to begin with.")
    ] = 10,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl audit tail
      kmsctl audit tail -n 100 -o json
      kmsctl audit tail -f

    Show the last records of the audit trail: who, what, when, with which key, and how it ended.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*FORMATS)
    with (
        connect(opts.target, timeout=opts.timeout) as kmsd,
        kmsd.watch_audit(backlog=number, follow=follow, timeout=None if follow else opts.timeout) as stream,
    ):
        if follow:
            _LISTING.emit_stream(map(_told, endless(stream)), form)
            return
        found = [each for batch in stream for each in _told(batch)]
    _LISTING.emit(found, form)
    if not found and form is Format.TABLE:
        diagnostics.note("the audit trail is empty, or kmsd keeps none: `kmsctl config view` shows which")


def _told(batch: AuditRecords) -> tuple[AuditRecord, ...]:
    if batch.dropped:
        diagnostics.warning(f"{batch.dropped} records are not shown: they came faster than they could be told")
    return batch.records


@app.command(short_help="Check that no record was changed, dropped or moved.")
def verify(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Files of a trail, oldest first. Default: kmsd checks its own.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="SEQ:HASH",
            help="With FILE: a HEAD from earlier, which the trail must still have. May be given often.",
        ),
    ] = None,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl audit verify
      kmsctl audit verify -o json

    Check the hash chain of the audit trail, and say which record was changed, dropped or moved.

    Without FILE, kmsd checks what it keeps; with FILEs, they are read here, and no kmsd is asked.
    Exits 0 if the chain is whole and 1 if it is not.

    Whoever can write the files can write a whole new end. Keep HEAD on another machine: with --head it shows
    that nothing up to it was cut off or written anew.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(Format.TABLE, Format.JSON, Format.YAML, Format.NAME)
    if head and not files:
        raise UsageError("--head is checked against files", "name the FILEs of the trail")
    with diagnostics.working("checking the audit trail"):
        if files:
            verdict = _offline(files, head or [])
        else:
            with connect(opts.target, timeout=opts.timeout) as kmsd:
                verdict = kmsd.verify_audit()
    match form:
        case Format.JSON | Format.YAML:
            output.emit_document(documents.audit_verdict(verdict), form)
        case Format.NAME:
            output.emit("intact" if verdict.intact else "broken")
        case _:
            output.emit(output.sheet(_sheet(verdict)))
    if not verdict.intact:
        diagnostics.error(
            f"the audit trail is broken: {verdict.problem}",
            "compare with a copy kept elsewhere; what stands before the named line is intact",
        )
        raise typer.Exit(ExitCode.FAILED)


def _sheet(verdict: AuditVerdict) -> list[tuple[str, str]]:
    span = f", {verdict.first_seq} to {verdict.last_seq}" if verdict.records else ""
    rows = [
        ("TRAIL", "intact" if verdict.intact else "BROKEN"),
        ("RECORDS", f"{verdict.records}{span}"),
        ("HEAD", f"{verdict.last_seq}:{escape(verdict.head)}" if verdict.head else "-"),
    ]
    rows += [("FILES" if index == 0 else "", escape(each)) for index, each in enumerate(verdict.files)]
    return rows


def _offline(files: list[str], heads: list[str]) -> AuditVerdict:
    from kmsd.client.auditchain import parse_head, verify_audit_files

    try:
        known = [parse_head(each) for each in heads]
    except ValueError as error:
        raise UsageError(str(error), "copy it from the HEAD of an earlier `kmsctl audit verify`") from None
    verdict = verify_audit_files(files, known)
    if verdict.first_seq > 1:
        diagnostics.note(f"these files begin with record {verdict.first_seq}; of those before it they prove nothing")
    return verdict
