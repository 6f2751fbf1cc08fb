"""`kmsctl help ...`: any command's help, and what belongs to no single command."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from kmsctl import options, output
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.output import OutputFormat

EXIT_CODES = "exit-codes"


def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help=f"A command, or {EXIT_CODES}.", show_default=False),
    ] = None,
    output_format: options.OutputDocument = None,
) -> None:
    """\b
    Examples:
      kmsctl help
      kmsctl help keys
      kmsctl help keys destroy
      kmsctl help exit-codes -o json

    Explain kmsctl, one of its commands, or a topic: exit-codes lists the exit codes, which every command shares.
    """
    opts = options.gather(ctx, output=output_format)
    if words == [EXIT_CODES]:
        _exit_codes(opts.form(*options.DOCUMENT))
        return
    if opts.output not in (None, OutputFormat.TABLE):
        raise UsageError(
            f"the help of a command is text, and has no format {opts.output}",
            f"leave out --output; only {EXIT_CODES} has formats",
        )
    place = ctx.find_root()
    for word in words or ():
        place = _below(place, word)
    output.emit(place.command.get_help(place))


def _below(place: Any, word: str) -> Any:
    """Return the context of a command in a group. Raises UsageError if it has no such command."""
    known = getattr(place.command, "commands", {})
    if word not in known:
        where = place.command_path
        topics = [*known, EXIT_CODES] if place.parent is None else list(known)
        if not topics:
            raise UsageError(f"`{where}` has no commands of its own, got {word!r}", "`kmsctl help` lists what there is")
        near = difflib.get_close_matches(word, topics, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(topics)}"
        raise UsageError(f"`{where}` has no command {word!r}", hint)
    return known[word].make_context(word, [], parent=place, resilient_parsing=True)


def _exit_codes(form: OutputFormat) -> None:
    if form is OutputFormat.TABLE:
        output.emit(output.table(("CODE", "MEANING"), [(str(code.value), code.meaning) for code in ExitCode]))
    else:
        codes = [{"code": code.value, "meaning": code.meaning} for code in ExitCode]
        output.emit_document({"exit_codes": codes}, form)
