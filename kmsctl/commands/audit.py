"""`kmsctl audit`: who did what, and whether the record of it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, filters, options, output
from kmsctl.confirm import DryRun, Yes
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.follow import FORMATS, FollowedList, ListColumn, endless
from kmsctl.keyview import short_hash
from kmsctl.output import OutputFormat
from kmsctl.text import milliseconds, timestamp
from kmsd.client import AuditChain, AuditRecord, AuditRecords, AuditVerdict, Filter, connect, escape

BACKLOG_MAX = 10_000

_CHAINS = {"main": "admin actions and events", "kms": "calls of the KMS APIs"}

_LISTING: FollowedList[AuditRecord] = FollowedList(
    title="records",
    columns=(
        ListColumn("SEQ", 6, lambda each: str(each.seq)),
        ListColumn("TIME", 24, lambda each: timestamp(each.time) or ""),
        ListColumn("KIND", 5, lambda each: each.kind),
        ListColumn("ACTION", 14, lambda each: each.action),
        ListColumn("OUTCOME", 10, lambda each: each.outcome),
        ListColumn("KEY", 15, lambda each: short_hash(each.key_id_sha256)),
        ListColumn("CALLER", 24, lambda each: each.caller),
        ListColumn("DETAIL", 20, lambda each: each.detail),
        ListColumn("REASON", 20, lambda each: each.reason),
        ListColumn("MS", 7, lambda each: milliseconds(each.latency_ms), wide=True),
        ListColumn("TENANT", 12, lambda each: each.tenant, wide=True),
        ListColumn("SHA256 OF THE KEY ID", 64, lambda each: each.key_id_sha256, wide=True),
    ),
    document=documents.of,
    name=lambda each: f"kms:{each.seq}" if each.kind == "kms" else str(each.seq),
)


def audit(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl audit tail
      kmsctl audit verify
      kmsctl audit acknowledge

    Show and check the record of every admin action, and of KMS calls as far as kmsd is configured to keep them.
    """
    options.want_command(ctx)


def tail(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the records to come.")] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", min=0, max=BACKLOG_MAX, help="Number of past records to begin with.")
    ] = 10,
    failed: filters.Failed = False,
    method: filters.MethodName = None,
    code: filters.CodeName = None,
    key: filters.WithKey = "",
    since: filters.Since = None,
    tenant: options.TenantName = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl audit tail
      kmsctl audit tail -n 100 -o json
      kmsctl audit tail -f
      kmsctl audit tail --failed --method DestroyKey --since 24h

    Show the last records of the audit trail: who, what, when, with which key, and how it ended.

    kmsd chooses among all records that it keeps, and -n counts what is chosen. Calls of the KMS APIs (KIND kms) are
    in a chain of their own, and have SEQs of their own.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*FORMATS)
    with (
        connect(opts.target, timeout=opts.timeout) as kmsd,
        kmsd.watch_audit(
            backlog=number,
            follow=follow,
            wanted=(wanted := filters.gather(kmsd, failed, method, code, key, since, tenant)),
            timeout=None if follow else opts.timeout,
        ) as stream,
    ):
        if follow:
            _LISTING.emit_stream(map(_told, endless(stream)), form)
            return
        found = [each for batch in stream for each in _told(batch)]
    _LISTING.emit(found, form)
    if not found and form is OutputFormat.TABLE:
        diagnostics.note(
            "the audit trail is empty, or kmsd keeps none: `kmsctl config view` shows which"
            if wanted == Filter()
            else "no record of the audit trail matches"
        )


def _told(batch: AuditRecords) -> tuple[AuditRecord, ...]:
    if batch.dropped:
        diagnostics.warning(f"{batch.dropped} records are not shown: they came faster than they could be told")
    return batch.records


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
            metavar="[kms:]SEQ:HASH",
            help="With FILE: a HEAD from earlier, which the trail must still have. May be repeated.",
        ),
    ] = None,
    begins_at: Annotated[
        list[str] | None,
        typer.Option(
            "--begins-at",
            metavar="[kms:]SEQ",
            help="With FILE: the record that the trail may begin with, because kmsd deleted those before it "
            "(audit.keep).",
        ),
    ] = None,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl audit verify
      kmsctl audit verify -o json

    Check the hash chains of the audit trail, and say which record was changed, dropped or moved.

    Without FILE, kmsd checks what it keeps; with FILEs, they are read here, and no kmsd is asked.
    Exits 0 if the chains are whole and 1 if one is not: also where there is no record at all, and where FILEs do
    not begin with record 1, unless --begins-at, or a --head in them or right before them, says that they need not.

    Whoever can write the files can write a whole new end. Keep HEAD on another machine: with --head it shows
    that nothing up to it was cut off or written anew.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    for option, given in (("--head", head), ("--begins-at", begins_at)):
        if given and not files:
            raise UsageError(f"{option} needs FILEs to be checked against", "name the files of the trail")
    with diagnostics.working("checking the audit trail"):
        if files:
            verdict = _offline(files, head or [], begins_at or [])
        else:
            with connect(opts.target, timeout=opts.timeout) as kmsd:
                verdict = kmsd.verify_audit()
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(documents.of(verdict), form)
        case OutputFormat.NAME:
            output.emit("intact" if verdict.intact else "broken")
        case _:
            output.emit(output.sheet(_sheet(verdict)))
    if not verdict.intact:
        diagnostics.error(
            f"the audit trail is broken: {verdict.problem}",
            _begin_hint(verdict, [*(head or []), *(begins_at or [])])
            if files
            else "compare with a copy kept elsewhere; what stands before the named line is intact",
        )
        raise typer.Exit(ExitCode.FAILED)
    for chain in verdict.chains if files else ():
        if chain.first_seq > 1:
            of = " of the KMS APIs" if chain.name == "kms" else ""
            diagnostics.note(
                f"the files{of} begin with record {chain.first_seq}; of those before it they prove nothing"
            )


def acknowledge(
    ctx: typer.Context,
    yes: Yes = False,
    dry_run: DryRun = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl audit acknowledge --dry-run
      kmsctl audit acknowledge --yes

    Put away what other programs were seen to do to the audit trail, which `kmsctl status` tells until then.

    That it was acknowledged, and by whom, is recorded. What is seen afterwards is a problem again.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.acknowledge_audit(dry_run=True)
        if found.seen and not dry_run:
            if not yes:
                for each in found.seen:
                    diagnostics.note(each.text)
            confirm.agree("acknowledge this?", yes=yes)
            found = kmsd.acknowledge_audit(up_to_seq=found.seen[-1].seq)
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(documents.acknowledgement(found, dry_run=dry_run), form)
        case OutputFormat.NAME:
            output.emit_names(str(each.seq) for each in found.seen)
        case _:
            rows = [[str(each.seq), timestamp(each.time) or "", escape(each.text)] for each in found.seen]
            output.emit(output.table(["SEQ", "TIME", "SEEN"], rows))
    if not found.seen:
        diagnostics.note("there is nothing to acknowledge")
    else:
        diagnostics.note("acknowledged" if found.acknowledged else "nothing was done")


def _sheet(verdict: AuditVerdict) -> list[tuple[str, str]]:
    rows = [("TRAIL", "intact" if verdict.intact else "BROKEN")]
    for chain in verdict.chains:
        rows += _chain(chain, alone=len(verdict.chains) == 1)
    return rows


def _chain(chain: AuditChain, *, alone: bool) -> list[tuple[str, str]]:
    span = f", {chain.first_seq} to {chain.last_seq}" if chain.records else ""
    prefix = "kms:" if chain.name == "kms" else ""
    rows = [] if alone else [("CHAIN", _CHAINS.get(chain.name, escape(chain.name)))]
    rows += [
        ("RECORDS", f"{chain.records}{span}"),
        ("HEAD", f"{prefix}{chain.last_seq}:{escape(chain.head)}" if chain.head else "-"),
    ]
    rows += [("FILES" if index == 0 else "", escape(each)) for index, each in enumerate(chain.files)]
    return rows


def _offline(files: list[str], heads: list[str], begins: list[str]) -> AuditVerdict:
    from kmsd.client.auditchain import parse_anchor, verify_audit_files

    try:
        known, starts = [parse_anchor(each) for each in heads], [parse_anchor(each) for each in begins]
    except ValueError as error:
        raise UsageError(str(error), "copy it from the HEAD of an earlier `kmsctl audit verify`") from None
    if not all(each.hash for each in known):
        raise UsageError("a head is written as [kms:]SEQ:HASH", "with a SEQ alone, use --begins-at")
    if any(each.hash for each in starts):
        raise UsageError("a beginning is written as [kms:]SEQ", "with a hash, use --head")
    return verify_audit_files(files, [*known, *starts])


def _begin_hint(verdict: AuditVerdict, anchors: list[str]) -> str:
    """Return what to do about files that are not whole."""
    late = [
        f"--begins-at {'kms:' if chain.name == 'kms' and len(verdict.chains) > 1 else ''}{chain.first_seq}"
        for chain in verdict.chains
        if chain.first_seq > 1 and not chain.intact
    ]
    if late and not anchors:
        return f"if kmsd deleted them by plan (audit.keep): {' '.join(late)}, or better a --head from before"
    if not any(chain.records for chain in verdict.chains):
        return "name the files of an audit trail"
    return "compare with a copy kept elsewhere; what stands before the named line is intact"
