"""`kmsctl targets`: every kmsd that has a name in the configuration file, or is named here, in one table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from kmsctl import diagnostics, options, output, targetsview
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsd.client import clientconfig, default_target, parse_target
from kmsd.client.clientconfig import Target
from kmsd.client.fleet import Member, Standing, agreement, ask_all, compare
from kmsd.client.places import SCHEME, TlsOptions, TlsPlace

INTERVAL = 2.0
"""Seconds between two looks of --watch."""


def targets(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="Names of targets, admin sockets, or tls://host:port. Default: all in the configuration file.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until q or Ctrl-C.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="DURATION",
            parser=options.duration,
            help="Time between two looks of --watch. Default: 2s.",
        ),
    ] = None,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl targets
      kmsctl targets /run/cp-2.sock
      kmsctl targets --watch
      kmsctl targets -o json

    Show several kmsd side by side, the odd one first: one that writes with another key than the rest, then those that
    do not answer, then those whose health is not ok. All are asked at once, each for at most --timeout.

    Exits 7 if one answers and is not healthy, or writes with another key than the rest; else 3 if one does not answer.
    SKEW is against the clock of this machine. REQ/S and P99 are those of the last 10 seconds.
    """
    if target is not None and names:
        raise UsageError("--target and arguments both name targets", "leave out --target")
    opts = options.gather(ctx, target=target, timeout=timeout)
    if output_format is not None:
        opts = options.gather(ctx, output=output_format)
    wanted = _wanted(names or (), opts, typed=target is not None or opts.target_typed)
    if opts.tls_typed and not any(each.address.startswith(SCHEME) for each in wanted):
        raise opts.useless_tls("each of these")
    if interval is not None and not watch:
        raise UsageError("--interval needs --watch", "add --watch, or leave out --interval")
    if watch:
        _watch(wanted, opts, INTERVAL if interval is None else interval)
        return
    form = opts.form(*options.ALL)
    with diagnostics.working(f"{len(wanted)} targets are asked"):
        members = ask_all(wanted, opts.timeout)
    standings = compare(members)
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.member.target.name for each in standings)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(_document(members, standings), form)
        case _:
            output.emit(targetsview.table(standings, datetime.now(UTC), wide=form is OutputFormat.WIDE))
    _complain(standings)
    code = _code(standings)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _wanted(names: Sequence[str], opts: Options, *, typed: bool) -> tuple[Target, ...]:
    """Return the targets that arguments name, else --target, else the configuration file, else the usual one. Raises
    ClientError for a name that there is not, UsageError for one given twice."""
    if not names and not typed:
        configured = clientconfig.load().targets
        if configured:
            return configured
    found: dict[str, Target] = {}
    for name in names or (opts.named or default_target(),):
        if name in found:
            raise UsageError(f"the target {name!r} is named twice", "name each once")
        place = parse_target(name)
        found[name] = Target(
            name.removeprefix("unix://"), place.address, place.tls if isinstance(place, TlsPlace) else TlsOptions()
        )
    if len(found) > clientconfig.MOST_TARGETS:
        raise UsageError(f"there must be {clientconfig.MOST_TARGETS} targets at most, got {len(found)}", "name fewer")
    return tuple(found.values())


def _document(members: Sequence[Member], standings: Sequence[Standing]) -> output.Document:
    agreeing, writing = agreement(members)
    return {
        "asked_at": targetsview.moment(members),
        "agreeing": agreeing,
        "writing": writing,
        "targets": [targetsview.document(each) for each in standings],
    }


def _complain(standings: Sequence[Standing]) -> None:
    for each in standings:
        error = each.member.error
        if error is not None and error.hint:
            diagnostics.hint(f"{each.member.target.name}: {error.hint}")


def _code(standings: Sequence[Standing]) -> ExitCode:
    """Return the exit code: what is certain goes before what a retry may mend."""
    statuses = [each.member.status for each in standings]
    if any(each.odd for each in standings) or any(each is not None and not each.healthy for each in statuses):
        return ExitCode.UNHEALTHY
    errors = [each.member.error for each in standings if each.member.error is not None]
    return (
        diagnostics.exit_code(errors[0])
        if len(errors) == len(standings) == 1
        else (ExitCode.UNREACHABLE if errors else ExitCode.OK)
    )


class _Looking(threading.Thread):
    """A thread that asks one target again and again beside the screen. A daemon: it ends with the process."""

    def __init__(self, wanted: Sequence[Target], opts: Options, interval: float) -> None:
        super().__init__(daemon=True)
        self.members: tuple[Member, ...] = ()
        self.wake: Callable[[], None] = lambda: None
        self._wanted, self._timeout, self._interval = wanted, opts.timeout, interval

    def run(self) -> None:
        while True:
            self.members = ask_all(self._wanted, self._timeout)
            self.wake()
            time.sleep(self._interval)


def _watch(wanted: Sequence[Target], opts: Options, interval: float) -> None:
    """Show a screen on a terminal, until q; else print a JSON object for each look, until nobody reads it."""
    if opts.output is OutputFormat.TABLE and not output.has_screen():
        raise UsageError("a live table needs a terminal", "leave out --output to get one JSON object a line")
    form = opts.form(OutputFormat.TABLE, OutputFormat.JSON) if output.has_screen() else opts.form(OutputFormat.JSON)
    if form is OutputFormat.JSON:
        while True:
            members = ask_all(wanted, opts.timeout)
            output.emit_line(_document(members, compare(members)))
            time.sleep(interval)
    from kmsctl import live

    looking = _Looking(wanted, opts, interval)
    with live.take() as (screen, wake):
        looking.wake = wake
        looking.start()
        while True:
            screen.draw(targetsview.screen(looking.members, len(wanted), datetime.now(UTC), screen.size()))
            if "q" in screen.wait(1.0).lower():
                return
