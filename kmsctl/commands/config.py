"""`kmsctl config view`: the settings that a running kmsd has in force."""

from __future__ import annotations

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.output import OutputFormat
from kmsd.client import Config, connect


def config(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl config view

    Show the configuration of a running kmsd. `kmsd check-config` reads the one of a kmsd that does not run.
    """
    options.want_command(ctx)


def view(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl config view
      kmsctl config view -o wide
      kmsctl config view -o json

    Show every setting in force and where it came from. Secrets are never in it.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_config()
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.name for each in found.settings)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(documents.of(found), form)
        case _:
            output.emit(_table(found, wide=form is OutputFormat.WIDE))
            for warning in found.warnings:
                diagnostics.warning(warning)


def _table(config: Config, *, wide: bool) -> str:
    headers = ["SETTING", "VALUE", "FROM"]
    rows = [[each.name, each.value, each.origin] for each in config.settings]
    if wide:
        headers += ["RELOAD", "SECRET"]
        for row, each in zip(rows, config.settings, strict=True):
            row += ["yes" if each.reloadable else "needs a restart", "yes" if each.secret else "no"]
    return output.table(headers, rows)
