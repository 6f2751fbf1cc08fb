"""The way to follow a rotation, as the options of a command name it, and the command that goes on with it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from kmsctl.etcdplace import EtcdPlace
from kmsctl.options import Options
from kmsctl.rewrite.plan import RewritePlan
from kmsctl.rotate.rotating import SCAN_EVERY
from kmsd.client import options_of


@dataclass(frozen=True)
class RotationRun:
    """The way to follow a rotation. nodes: name and socket of the other nodes. place: where to scan; None: nowhere.
    again: rotate even if a rotation is not finished. retire: do it without asking. report: file for the last scan.
    seconds: for all of it; None: no limit. scan_every: seconds between two scans. show: objects to be named. rewrite:
    how objects are rewritten; None: somebody else does."""

    nodes: tuple[tuple[str, str], ...] = ()
    place: EtcdPlace | None = None
    again: bool = False
    retire: bool = False
    report: str | None = None
    seconds: float | None = None
    scan_every: float = SCAN_EVERY
    show: int = 0
    rewrite: RewritePlan | None = None


def resume_command(plan: RotationRun, opts: Options, label: str) -> str:
    """Return the command that goes on with the same rotation. label: of a tenant's key; empty for kmsd's own."""
    words = ["kmsctl", "rotate", *([label] if label else []), "--watch"]
    if opts.target is not None:
        words += options_of(opts.target)
    for name, socket in plan.nodes:
        words += ["--node", f"{name}={socket}"]
    if plan.place is not None:
        words += plan.place.arguments()
    if plan.rewrite is not None:
        words += plan.rewrite.arguments
    if plan.retire:
        words.append("--retire")
    if plan.report is not None:
        words += ["--report", plan.report]
    return shlex.join(words)
