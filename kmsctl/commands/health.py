"""`kmsctl health`: good or bad, for scripts and probes; with --wait, until good."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, options, output, waiting
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsctl.waiting import WAIT, wait_for
from kmsd.client import Status, connect, escape


def health(
    ctx: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until health is ok.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Judge only whether kmsd itself is alive.")] = False,
    timeout: waiting.Timeout = None,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
) -> None:
    """\b
    Examples:
      kmsctl health
      kmsctl health --wait --timeout 2m
      kmsctl health --live
      kmsctl health -o json

    Print ok, or the reason why not, exactly as kube-apiserver sees it.

    Exits 0 if ok, 7 if kmsd answers and is not, 3 if no kmsd answers.
    With --wait, a kmsd that is not there yet counts as not ok yet.
    With --live, only what a restart of kmsd can mend is bad: it says alive (0), or why not (7).
    """
    opts = options.gather(ctx, target=target, output=output_format)
    form = opts.form(*options.DOCUMENT)
    if live:
        if wait:
            raise UsageError(
                "--live and --wait exclude each other", "--live judges the kmsd that runs now: leave out --wait"
            )
        _live(_look(opts, timeout or opts.timeout), form)
        return
    if wait:
        seconds = WAIT if timeout is None else timeout
        found = wait_for(lambda patience: _look(opts, patience), _against, seconds, opts.timeout)
    else:
        found = _look(opts, timeout or opts.timeout)
    if form is OutputFormat.TABLE:
        output.emit(escape(found.healthz or "unknown"))
    else:
        output.emit_document(
            {
                "healthz": found.healthz,
                "healthy": found.healthy,
                "state": found.state.value,
                "hint": found.hint or None,
                "tokens": [
                    {"name": each.name, "up": each.token.up, "reason": each.reason or None} for each in found.tokens
                ],
            },
            form,
        )
    for each in found.tokens:
        if not each.token.up:
            diagnostics.warning(f"the token {each.name!r} is away: {each.reason or 'kmsd gave no reason'}")
    if not found.healthy:
        if found.hint:
            diagnostics.hint(found.hint)
        raise typer.Exit(ExitCode.UNHEALTHY)


def _live(found: Status, form: OutputFormat) -> None:
    reason = found.not_alive
    if form is OutputFormat.TABLE:
        output.emit(escape(reason) or "alive")
    else:
        output.emit_document({"alive": not reason, "reason": reason or None}, form)
    if reason:
        diagnostics.hint("kmsd is ending by itself; what supervises it starts it anew")
        raise typer.Exit(ExitCode.UNHEALTHY)


def _look(opts: Options, seconds: float) -> Status:
    with connect(opts.target, timeout=seconds) as kmsd:
        return kmsd.get_status()


def _against(status: Status) -> str:
    return "" if status.healthy else status.healthz or "kmsd does not say how it is"
