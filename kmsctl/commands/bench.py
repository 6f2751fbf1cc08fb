"""`kmsctl bench`: what a token can do through a running kmsd, and how many sessions are worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import bench as measuring
from kmsctl import confirm, diagnostics, options, output
from kmsctl.bench import Step, quantile
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.output import Document, OutputFormat
from kmsd.client import Status, connect, kms_connect
from kmsd.client.places import TlsPlace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsd.client.places import Place

CALLERS_MOST = 64
SECONDS_MOST = 600.0
"""Seconds of all steps together."""
HEADS = ("CALLERS", "CALLS/S", "ENCRYPT P50", "P99", "DECRYPT P50", "P99", "WAIT", "SESSIONS", "QUEUED", "REFUSED")


def bench(
    ctx: typer.Context,
    max_callers: Annotated[
        int, typer.Option("--max-callers", metavar="N", min=1, max=CALLERS_MOST, help="Most callers at once.")
    ] = 16,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="DURATION", parser=options.duration, help="Time for each step. Default: 2s."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Call all the time, and not in bursts that leave the token to others.")
    ] = False,
    yes: confirm.Yes = False,
    output_format: options.OutputDocument = None,
    socket: options.Socket = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl bench
      kmsctl bench --max-callers 4 --seconds 1s -o json
      kmsctl bench --full --yes --seconds 1s

    Measure what the token does through kmsd, and say how many sessions are worth having: 1, 2, 4, ... callers at once
    encrypt and decrypt random values. Times are in milliseconds; WAIT is what a call spends in kmsd beside the token.

    It may be run beside kube-apiserver: it calls in bursts of a tenth of a second, a quarter of the time, and ends when
    kmsd refuses a call or is not healthy. With --full it takes all that the token has, and asks before. Ctrl-C shows
    what has been measured. Nothing is stored; the write key encrypts, and each value counts as one of its uses.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    each = 2.0 if seconds is None else seconds
    callers = _rising(max_callers)
    if not each >= 0.2 or each * len(callers) > SECONDS_MOST:
        raise UsageError(
            f"{len(callers)} steps of {each:g}s are {each * len(callers):g}s; a step takes 0.2s at least, and all "
            f"{SECONDS_MOST:g}s at most",
            "change --seconds, or lower --max-callers",
        )
    steps: list[Step] = []
    interrupted: KeyboardInterrupt | None = None
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        status = kmsd.get_status()
        if not status.healthy:
            diagnostics.error(f"kmsd is not healthy: {status.healthz}", status.hint)
            raise typer.Exit(ExitCode.UNHEALTHY)
        place = socket or _kms_socket(status, kmsd.place)
        load = (
            "all that the token has: kube-apiserver waits meanwhile" if full else f"{measuring.SHARE:.0%} of the time"
        )
        label = status.write_key.label if status.write_key is not None else status.write_label
        diagnostics.note(
            f"Encrypt and Decrypt of random values on {place} with {label!r}: 1 to {max_callers} callers, "
            f"{each * len(callers):g}s in all, {load}"
        )
        if full:
            confirm.agree(
                "take the token from kube-apiserver meanwhile?", yes=yes, why="kube-apiserver waits meanwhile"
            )
        with kms_connect(place, timeout=opts.timeout) as kms:
            try:
                steps.extend(measuring.measure(kmsd, kms, callers, each, full=full))
            except KeyboardInterrupt as pressed:
                interrupted = pressed
    ended = "interrupted" if interrupted is not None else steps[-1].ended
    if form is OutputFormat.TABLE:
        if steps:
            output.emit(output.table(HEADS, [_row(step) for step in steps]))
    else:
        output.emit_document(_document(steps, status, place, ended, full=full), form)
    if interrupted is not None:
        raise interrupted
    if ended:
        diagnostics.warning(f"ended early: {ended}")
    diagnostics.note(_advice(steps, status.sessions.configured))
    if ended.startswith("kmsd is not healthy"):
        raise typer.Exit(ExitCode.UNHEALTHY)


def _rising(most: int) -> list[int]:
    found = [1]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def _kms_socket(status: Status, asked: Place) -> str:
    """Return the local socket of kmsd that serves KMS v2. asked: where it is asked. Raises UsageError."""
    if isinstance(asked, TlsPlace):
        raise UsageError(
            f"the KMS sockets of {asked} are on its own machine, and bench calls one",
            "run this there; or on a node of a tenant, without --target, to measure through its proxy",
        )
    for each in status.listeners:
        if "v2" in each.apis and each.socket.startswith(("/", "unix:")):
            return each.socket
    raise UsageError("this kmsd names no local socket with KMS v2", "name it: --socket")


def _row(step: Step) -> list[str]:
    times = [quantile(found, share) for found in (step.encrypts, step.decrypts) for share in (0.5, 0.99)]
    shown = ["-" if each is None else f"{each:.2f}" for each in [*times, step.wait_ms]]
    return [
        str(step.callers),
        f"{step.per_second:,.0f}",
        *shown,
        str(step.sessions),
        str(step.queued),
        str(step.refused),
    ]


def _document(steps: Sequence[Step], status: Status, socket: str, ended: str, *, full: bool) -> Document:
    def times(found: list[float]) -> Document:
        return {"p50": quantile(found, 0.5), "p99": quantile(found, 0.99)}

    return {
        "socket": socket,
        "key_id_sha256": status.write_key.key_id_sha256 if status.write_key is not None else None,
        "full": full,
        "steps": [
            {
                "callers": each.callers,
                "calls": each.calls,
                "refused": each.refused,
                "busy_seconds": each.busy,
                "per_second": each.per_second,
                "encrypt_ms": times(each.encrypts),
                "decrypt_ms": times(each.decrypts),
                "wait_ms": each.wait_ms,
                "sessions_busy": each.sessions,
                "queued": each.queued,
            }
            for each in steps
        ],
        "sessions_configured": status.sessions.configured,
        "sessions_worth": measuring.worth(list(steps)),
        "ended_early": ended or None,
    }


def _advice(steps: Sequence[Step], configured: int) -> str:
    enough = measuring.worth(list(steps))
    most = max((each.sessions for each in steps), default=0)
    if enough is not None and enough < configured:
        return f"{enough} of {configured} sessions are enough: more callers at once got no more (token.sessions)"
    if most >= configured and enough is None:
        return f"all {configured} sessions were busy: a larger token.sessions may be worth trying"
    if enough is None:
        return f"more callers got more to the end, and {most} of {configured} sessions were busy at most: --max-callers"
    return f"{enough} callers at once get all there is; {most} of {configured} sessions were busy at most"
