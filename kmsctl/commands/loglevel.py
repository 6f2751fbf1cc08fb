"""`kmsctl log-level`: how much a running kmsd logs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kmsctl import diagnostics, options, output
from kmsctl.output import OutputFormat
from kmsd.client import connect


class Level(StrEnum):
    """A log level, or the one that is configured."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CONFIGURED = "configured"


def log_level(
    ctx: typer.Context,
    level: Annotated[
        Level | None,
        typer.Argument(
            metavar="[LEVEL]", help="Level to log from: debug, info, warning, error, or configured.", show_default=False
        ),
    ] = None,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl log-level
      kmsctl log-level debug
      kmsctl log-level configured

    Show or change how much kmsd logs, until it restarts.

    With configured, it logs what its configuration says again.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    wanted = "" if level is None or level is Level.CONFIGURED else level.value
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.set_log_level(wanted, dry_run=level is None)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"level": found.level, "previous": found.previous}, form)
    else:
        output.emit_names([found.level])
    if level is not None and found.previous != found.level:
        diagnostics.note(f"the log level was {found.previous}")
