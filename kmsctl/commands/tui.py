"""`kmsctl tui`: becomes kmstui, on the same kmsd."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import typer

from kmsctl import options
from kmsctl.diagnostics import UsageError

PROGRAM = "kmstui"


def tui(ctx: typer.Context, target: options.Target = None) -> None:
    """\b
    Examples:
      kmsctl tui

    Watch kmsd live in the terminal: its state, keys and traffic. Runs kmstui with the same target.
    """
    opts = options.gather(ctx, target=target)
    program = _program()
    arguments = [PROGRAM] if opts.target is None else [PROGRAM, "--target", opts.target]
    try:
        os.execv(program, arguments)  # noqa: S606 - another program of ours takes over this process
    except OSError as error:
        raise UsageError(
            f"cannot run {program}: {error.strerror}", "kmstui comes with kmsd: install the package again"
        ) from error


def _program() -> str:
    """Return the kmstui that was installed with this kmsctl, else the one on PATH."""
    for program in (sys.argv[0], sys.executable):
        beside = Path(program).with_name(PROGRAM)
        if beside.is_file() and os.access(beside, os.X_OK):
            return str(beside)
    found = shutil.which(PROGRAM)
    if found is None:
        raise UsageError(
            f"there is no {PROGRAM} beside kmsctl, nor on PATH", "kmstui comes with kmsd: install the package again"
        )
    return found
