"""`kmsctl store`: the database of what key managers share, as kmsd sees it."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, files, options, output
from kmsctl.diagnostics import ExitCode
from kmsctl.output import Document, OutputFormat
from kmsd.client import connect

_BACKUP_SECONDS = 120.0


def store(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl store check
      kmsctl store backup store.sqlite

    Check and copy what key managers share: enrolment tokens, certificates, revocations.
    """
    options.want_command(ctx)


def check(
    ctx: typer.Context,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl store check
      kmsctl store check -o json

    Have kmsd look at its store: whether it answers, is whole, and of which version it is.

    Exits 0 if it is well, 7 if it is not whole, 1 if it cannot be used.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.check_store()
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        document: Document = {
            "kind": found.kind, "name": found.name, "version": found.version, "newest_version": found.newest,
            "rows": dict(found.rows), "problem": found.problem or None,
        }  # fmt: skip
        output.emit_document(document, form)
    else:
        rows = [("store", found.name), ("version", f"{found.version} (newest: {found.newest})")]
        output.emit(output.sheet([*rows, *((name.replace("_", " "), f"{count:,}") for name, count in found.rows)]))
    if found.problem:
        diagnostics.error(f"the store is not whole: {found.problem}", "put back the last backup, and restart kmsd")
        raise typer.Exit(ExitCode.UNHEALTHY)


def backup(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to write, with mode 0600.")],
    target: options.Target = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="DURATION", parser=options.duration, help="Time limit for all of it. Default: 2m."
        ),
    ] = None,
) -> None:
    """\b
    Examples:
      kmsctl store backup store.sqlite

    Copy the store, as of one moment, into an SQLite file.

    Whatever the database is, the file can stand in the place of store.sqlite in state.dir, of a kmsd with store.url
    empty. It holds hashes of enrolment tokens: keep it to yourself. PostgreSQL has tools of its own, too.
    """
    opts = options.gather(ctx, target=target)
    with connect(opts.target, timeout=opts.timeout) as kmsd, diagnostics.working("kmsd copies its store"):
        pieces = kmsd.back_up_store(timeout=_BACKUP_SECONDS if timeout is None else timeout)
        with pieces:
            data = b"".join(pieces)
    files.write(file, data)
    diagnostics.note(f"{len(data):,} bytes in {file}")
