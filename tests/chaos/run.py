"""Measures every fault and writes docs/RELIABILITY.md from it, all of the page: `make chaos`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kmsd import __version__
from kmsd.config.settings import Settings
from tests.chaos.faults import FAULTS
from tests.chaos.measuring import INTERVAL, QUICK, ROWS

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "RELIABILITY.md"
_TEST = "tests/chaos/test_reliability.py"

_INTRO = """\
# Reliability

<!-- Written by `make chaos`: change tests/chaos/, not this page. -->

Each row is one test with a real kmsd and a real token that is made to fail, under load: three callers write and read
through v2 and v1beta1, one call after another. `.venv/bin/pytest {test} -k NAME` repeats one,
`make chaos` all of them, and this page.

- *Start blocked*: whether a second kmsd, started meanwhile, failed to come up. `-`: not tried, because the fault
  is over at once or is of one process.
- *Calls*, *failed*: from the beginning of the fault until everything was well again, and the status codes of those that
  failed. kube-apiserver tries again after each of them; FAILED_PRECONDITION says that an operator has to act.
- *Wrong*: plaintexts that were answered and were not those that had been encrypted. A token that decrypts wrongly and
  says that all is well cannot be seen through before the next round trip for health; nothing is decrypted after that.
- *Told after*: seconds until Status was not ok any more, the log had a warning, or `kmsctl status` named a problem:
  whichever was first. `-`: nothing was wrong for callers, or only another process could have told.
- *Healed after*: seconds from the end of the fault until Status was ok and a value went round; from its beginning
  where the fault is over at once.
- *Lost*: of all values that were written before and meanwhile, those that could not be read back, or were others, and
  kmsd had not said so. In brackets how many it named as in doubt, which is what it does when a token turns out to have
  given wrong results.

Measured with kmsd {version}, {day},
on {machine}.
For short runs the tests set {settings}.
Health is checked every {interval} s here, and every {default:.0f} s by default: so long a token may give wrong results
before that is seen.
"""
_HEAD = """
## {group}

| Fault | Start blocked | Calls | Failed | Wrong | Told after | Healed after | Lost | Test |
|---|---|--:|---|--:|--:|--:|--:|---|
"""


def main() -> int:
    """Run the tests, then write the page. Returns the exit code of the tests; the page is written if all are well."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        command = (sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "load", _TEST, *sys.argv[1:])
        done = subprocess.run(command, cwd=_ROOT, env={**os.environ, ROWS: str(rows)}, check=False)
        if done.returncode:
            print("docs/RELIABILITY.md is as it was: some tests failed", file=sys.stderr)  # noqa: T201
            return done.returncode
        measured = {row["name"]: row for row in map(json.loads, rows.read_text().splitlines())}
    missing = [fault.name for fault in FAULTS if fault.name not in measured]
    if missing:
        print(f"docs/RELIABILITY.md is as it was: not measured: {', '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 1
    _PAGE.write_text("".join(page(measured)))
    return 0


def page(measured: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The parts of the page. measured: rows by the name of their fault."""
    settings = ", ".join(
        f"{name.removeprefix('KMSD_').replace('__', '.').lower()} {value}" for name, value in QUICK.items()
    )
    yield _INTRO.format(
        test=_TEST,
        version=__version__,
        day=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        machine=machine(),
        settings=settings,
        interval=INTERVAL,
        default=Settings().health.interval,
    )
    group = ""
    for fault in FAULTS:
        if fault.group != group:
            group = fault.group
            yield _HEAD.format(group=group)
        yield _line(measured[fault.name])


def _line(row: Mapping[str, Any]) -> str:
    blocked = {None: "-", False: "no", True: "**yes**"}[row["blocks_start"]]
    failed = ", ".join(f"{count} {code}" for code, count in row["failed"].items()) or "0"
    wrong = row["wrong"]
    told = "-" if row["told"] is None else f"{row['told']:.2f} ({row['told_by']})"
    lost = f"{row['lost']} ({row['doubted']})" if row["doubted"] else str(row["lost"])
    cells = (row["title"], blocked, row["calls"], failed, wrong, told, f"{row['healed']:.2f}", lost, f"`{row['name']}`")
    return f"| {' | '.join(map(str, cells))} |\n"


def machine() -> str:
    """Cores, processor, kernel and load, as far as the system tells them."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Linux {platform.release()}, load average {os.getloadavg()[2]:.1f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
