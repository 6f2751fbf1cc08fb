"""Waiting for a kmsd that starts, or whose token comes back. Knows no command."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from kmsctl import diagnostics, options
from kmsd.client import ClientError, Unhealthy, Unreachable

WAIT = 60.0
"""Seconds that --wait waits unless told."""
POLL = 0.25
"""Seconds between two looks."""

T = TypeVar("T")

Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        parser=options.duration,
        help="Time limit for all of it: 30, 30s, 2m. Default: 60s with --wait, else 10s.",
    ),
]


def wait_for(look: Callable[[float], T], against: Callable[[T], str], seconds: float, per_look: float) -> T:
    """Return the first answer that nothing speaks against, else the last one, else the error that met every look.

    look: takes the seconds it may take. against: why an answer will not do yet; empty if it will. Errors that may pass
    are waited out: that no kmsd is there yet, and that its token is away.
    """
    progress = diagnostics.ProgressLine()
    started = time.monotonic()
    bad: T | None = None
    try:
        while True:
            left = started + seconds - time.monotonic()
            failure: ClientError | None = None
            try:
                found = look(min(per_look, max(left, 0.1)))
            except (Unreachable, Unhealthy) as error:
                failure, reason = error, error.message
            else:
                reason = against(found)
                if not reason:
                    return found
                bad = found
            if left <= POLL:
                if bad is not None:
                    return bad
                if failure is not None:
                    raise failure
            progress.show(f"waiting for kmsd, {time.monotonic() - started:.0f} s of {seconds:g} s: {reason}")
            time.sleep(min(POLL, max(left, 0.0)))
    finally:
        progress.clear()
