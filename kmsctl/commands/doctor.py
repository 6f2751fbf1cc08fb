"""`kmsctl doctor`: what a token can really do, what kmsd makes of it, and what to mend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import typer

from kmsctl import checklist, diagnostics, documents, options, output
from kmsctl.diagnostics import ExitCode
from kmsctl.output import OutputFormat
from kmsctl.text import width
from kmsd.client import DEFAULT_TIMEOUT, Check, Diagnosis, Outcome, connect, escape

SECONDS: Final = 60.0
"""That it may take unless told. kmsd takes no longer in any case."""
_VERDICT: Final = "verdict"
"""Name of the check that stands below the others."""


def doctor(
    ctx: typer.Context,
    token: options.TokenArgument = "",
    output_format: options.OutputDocument = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            parser=options.duration,
            help="Time limit for all checks: 30, 30s, 1m. Default and most: 60s.",
        ),
    ] = None,
    target: options.Target = None,
) -> None:
    """\b
    Examples:
      kmsctl doctor
      kmsctl doctor -o json
      kmsctl doctor --timeout 30s

    Try what a token can really do, whatever it lists, and say what kmsd writes with and what to mend.

    Calls are answered meanwhile. The keys that are tried are made for it and destroyed again; where the token makes
    none, kmsd's own encrypt bytes of no meaning. No PIN is tried. A token that is away is looked at without a login.

    Exits 0 if no check failed, and 7 if one did.
    """
    opts = options.gather(ctx, target=target, output=output_format)
    form = opts.form(*options.DOCUMENT)
    usual = SECONDS if opts.timeout == DEFAULT_TIMEOUT else opts.timeout
    with diagnostics.working("looking at the token"), connect(opts.target, timeout=timeout or usual) as kmsd:
        found = kmsd.diagnose(token)
    if form is OutputFormat.TABLE:
        output.emit("\n".join(_lines(found)))
        for each in found.checks:
            if each.fix:
                diagnostics.hint(f"{each.title}: {each.fix}")
    else:
        output.emit_document(documents.of(found), form)
    if any(each.outcome is Outcome.FAILED for each in found.checks):
        raise typer.Exit(ExitCode.UNHEALTHY)


def _lines(found: Diagnosis) -> Iterator[str]:
    name = found.token if found.token_label in ("", found.token) else f"{found.token} ({found.token_label})"
    if found.provider == "proxy":
        yield f"Key managers {escape(found.token_label)}"
    else:
        yield f"Token {escape(name)} as {escape(found.provider_title or found.provider or 'unknown')}"
    yield ""
    room = max((width(escape(each.title)) for each in found.checks), default=0)
    for each in found.checks:
        if each.name != _VERDICT:
            yield _line(each, room)
    verdicts = [each for each in found.checks if each.name == _VERDICT]
    if verdicts:
        yield ""
        yield from (_line(each, room) for each in verdicts)


def _line(check: Check, room: int) -> str:
    return checklist.line(check.outcome, check.title, check.seen, room)
