"""make bench: what kmsd answers and costs, beside servers that do nothing and beside peers, in one run on this machine.

usage: python -m tests.bench [--full|--quick] [PART ...]

Without a part: all but remote, recording, startup and tui, in some ten minutes, and docs/PERFORMANCE.md is written from
them. remote: what a key manager and a proxy take, in some three minutes, for that page, too, and for docs/sizing.md.
--full measures every combination, in an hour or two. --quick measures nothing that counts, and writes no page: it shows
that all of it works. PEERS names a folder with `k8s-kms-plugin` and `mock-kms`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench import moments, overload, page, recording, remote, serving, signing, startup, tui
from tests.bench.cases import DEFAULT, FULL, QUICK, Plan
from tests.bench.results import FILE, Results
from tests.chaos.run import machine

Measure = Callable[[Results, Path, Plan], None]

_GROUPS: dict[str, Measure] = {
    "side": serving.side_by_side,
    "keys": serving.keys,
    "schemes": serving.schemes,
    "latency": serving.latency,
    "jwt": signing.measure,
    "moments": lambda results, folder, plan: moments.measure(
        results, folder, starts=1 if plan is QUICK else 5, idle=1.0 if plan is QUICK else 20.0
    ),
    "overload": lambda results, folder, plan: overload.measure(
        results,
        folder,
        latencies=(0.02, 0.05, 0.2) if plan is FULL else (0.05,),
        seconds={id(FULL): 8.0, id(DEFAULT): 5.0}.get(id(plan), 0.5),
    ),
}
_APART: dict[str, Measure] = {
    "remote": lambda results, folder, plan: remote.measure(
        results, folder, replace(plan, side_by_side=remote.LOADS), remote.QUICK if plan is QUICK else remote.FULL
    ),
}
"""Measured by themselves, and kept beside what a run without parts has measured."""
_PRINTED = {"recording": recording.main, "startup": startup.main, "tui": tui.main}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--full", action="store_const", dest="plan", const=FULL, default=DEFAULT)
    parser.add_argument("--quick", action="store_const", dest="plan", const=QUICK)
    parts = (*_GROUPS, *_APART, *_PRINTED, "page")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    # As where it is installed: what is imported is compiled once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    results = Results(machine())
    for name in given.parts or _GROUPS:
        if name in _PRINTED:
            _PRINTED[name]()
        elif measure := (_GROUPS | _APART).get(name):
            with tempfile.TemporaryDirectory(prefix="kb") as folder:
                measure(results, Path(folder), given.plan)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if given.plan is QUICK:
        return
    if given.parts and not set(given.parts) <= {*_APART, "page"}:
        return
    kept = Results.load(FILE)
    if not given.parts:
        results, kept = kept, results
    for name in [each for each in _APART if each in given.parts or not given.parts]:
        kept.take(name, results)
    kept.save(FILE)
    page.write(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
