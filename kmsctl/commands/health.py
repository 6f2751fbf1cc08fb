"""`kmsctl health`: good or bad, for scripts and probes; with --wait, until good."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from kmsctl import diagnostics, options, output
from kmsctl.diagnostics import ExitCode
from kmsctl.options import Options
from kmsctl.output import Format
from kmsd.client import ClientError, Status, Unhealthy, Unreachable, connect, escape

WAIT = 60.0
"""Seconds that --wait waits unless told."""
POLL = 0.25
"""Seconds between two looks."""


def health(
    ctx: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until health is ok.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            parser=options.duration,
            help="How long it may take in all: 30, 30s, 2m. Default: 60s with --wait, else 10s.",
        ),
    ] = None,
    output_format: options.Output = None,
    target: options.Target = None,
) -> None:
    """\b
    Examples:
      kmsctl health
      kmsctl health --wait --timeout 2m
      kmsctl health -o json

    Print ok, or the reason why not, exactly as kube-apiserver sees it.

    Exits 0 if ok, 7 if kmsd answers and is not, 3 if no kmsd answers.
    With --wait, a kmsd that is not there yet counts as not ok yet.
    """
    opts = options.gather(ctx, target=target, output=output_format)
    form = opts.form(Format.TABLE, Format.JSON, Format.YAML)
    found = _wait(opts, WAIT if timeout is None else timeout) if wait else _look(opts, timeout or opts.timeout)
    if form is Format.TABLE:
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


def _look(opts: Options, seconds: float) -> Status:
    with connect(opts.target, timeout=seconds) as kmsd:
        return kmsd.get_status()


def _wait(opts: Options, seconds: float) -> Status:
    """The first good status, else the last bad one, else the error that met every attempt."""
    progress = diagnostics.Progress()
    started = time.monotonic()
    bad: Status | None = None
    try:
        while True:
            left = started + seconds - time.monotonic()
            failure: ClientError | None = None
            try:
                found = _look(opts, min(opts.timeout, max(left, 0.1)))
            except (Unreachable, Unhealthy) as error:
                failure, reason = error, error.message
            else:
                if found.healthy:
                    return found
                bad, reason = found, found.healthz
            if left <= POLL:
                if bad is not None:
                    return bad
                if failure is not None:
                    raise failure
            progress.show(f"waiting for kmsd, {time.monotonic() - started:.0f} s of {seconds:g} s: {reason}")
            time.sleep(min(POLL, max(left, 0.0)))
    finally:
        progress.clear()
