"""`kmsctl version`: this program's, and that of the kmsd it would talk to."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, options, output
from kmsctl.output import OutputFormat
from kmsd.client import ClientError, __version__, connect, escape


def version(
    ctx: typer.Context,
    client: Annotated[bool, typer.Option("--client", help="Do not ask kmsd.")] = False,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl version
      kmsctl version --client
      kmsctl version -o json

    Show the versions of kmsctl and of the kmsd that answers, if one does.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    server: str | None = None
    failure: ClientError | None = None
    if not client:
        try:
            with connect(opts.target, timeout=opts.timeout) as kmsd:
                server = kmsd.get_status().version
        except ClientError as error:
            failure = error
    if form is not OutputFormat.TABLE:
        output.emit_document({"client": __version__, "server": server}, form)
    else:
        rows = [("kmsctl", __version__)]
        if not client:
            rows.append(("kmsd", escape(server or "-")))
        output.emit(output.sheet(rows))
    if failure is not None:
        diagnostics.note(f"the version of kmsd is not known: {failure.message}")
