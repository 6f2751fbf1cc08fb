"""`kmsctl unlock`: has kmsd log in to a token once more."""

from __future__ import annotations

import typer

from kmsctl import diagnostics, options, output
from kmsctl.output import OutputFormat
from kmsd.client import connect


def unlock(
    ctx: typer.Context,
    token: options.TokenArgument = "",
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl unlock
      kmsctl unlock -o json

    Have kmsd log in to a token now, once, even if the token refused the PIN before.

    kmsd reads the PIN anew from where it is configured. By itself it never tries a refused PIN again: tokens lock
    after some wrong ones, and this takes one of those attempts if the PIN is still wrong.

    Exits 0 if the token is up, 4 if it refuses the PIN again.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.unlock_token(token)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(
            {"token": found.token, "token_label": found.token_label, "logged_in": found.logged_in}, form
        )
    else:
        output.emit_names([found.token])
    if not found.logged_in:
        diagnostics.note(f"the token {found.token!r} is up already")
