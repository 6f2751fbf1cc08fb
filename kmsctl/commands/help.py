"""`kmsctl help ...`: what belongs to no single command."""

from __future__ import annotations

import typer

from kmsctl import options, output
from kmsctl.diagnostics import ExitCode
from kmsctl.output import Format

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def help_(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl help
      kmsctl help exit-codes

    Explain kmsctl, or one topic.
    """
    if ctx.invoked_subcommand is None:
        output.emit((ctx.parent or ctx).get_help())


@app.command("exit-codes", short_help="List the exit codes.")
def exit_codes(ctx: typer.Context, output_format: options.Output = None) -> None:
    """\b
    Examples:
      kmsctl help exit-codes
      kmsctl help exit-codes -o json

    List the exit codes, which every command shares.
    """
    form = options.gather(ctx, output=output_format).form(Format.TABLE, Format.JSON, Format.YAML)
    if form is Format.TABLE:
        output.emit(output.table(("CODE", "MEANING"), [(str(code.value), code.meaning) for code in ExitCode]))
    else:
        codes = [{"code": code.value, "meaning": code.meaning} for code in ExitCode]
        output.emit_document({"exit_codes": codes}, form)
