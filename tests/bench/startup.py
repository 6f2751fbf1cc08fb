"""How long the front ends take until they have said something, beside `python -c pass` in the same run; printed.

User and system CPU time, of which a busy machine changes little, and the time on the clock, of which it changes much.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.terminal import Program, has
from tests.daemons import Kmsd
from tests.tokens import make_token

ROUNDS = 11
PYTHON = (sys.executable, "-c", "pass")
KMSCTL = str(Path(sys.executable).with_name("kmsctl"))


@dataclass(frozen=True)
class Taken:
    """Seconds of one start: of the processor, and on the clock."""

    processor: float
    clock: float


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder = Path(name)
        (folder / "d").mkdir()
        with Kmsd(folder / "d", make_token(folder / "token"), ("--log-level=info", "--auto-create")) as kmsd:
            kmsd.wait_ok()
            target = f"--target=unix://{kmsd.admin_socket}"
            _compare(
                {
                    "python -c pass": (lambda: _run(*PYTHON), None),
                    "kmsctl --help": (lambda: _run(KMSCTL, "--help"), 150),
                    "kmsctl status": (lambda: _run(KMSCTL, "status", target), 250),
                    "completion of a command": (lambda: _run(KMSCTL, "__complete", "zsh", "kmsctl", "st"), 150),
                    "completion of a key": (
                        lambda: _run(KMSCTL, "__complete", "zsh", "kmsctl", target, "keys", "show", ""),
                        None,
                    ),
                    "kmstui, first paint": (lambda: _first_paint(kmsd.admin_socket, folder / "state"), 500),
                }
            )


def _compare(starts: dict[str, tuple[Callable[[], Taken], int | None]]) -> None:
    taken: dict[str, list[Taken]] = {name: [] for name in starts}
    for number in range(ROUNDS + 1):
        for name, (start, _) in starts.items():
            found = start()
            if number:  # the first one compiles
                taken[name].append(found)
    bare = statistics.median(each.processor for each in taken["python -c pass"])
    for name, (_, goal) in starts.items():
        processor = statistics.median(each.processor for each in taken[name])
        clock = statistics.median(each.clock for each in taken[name])
        against = f"(goal: < {goal} ms)" if goal else ""
        print(
            f"{name:40} {clock * 1000:4.0f} ms, {processor * 1000:4.0f} ms of CPU, "
            f"{processor / bare:4.1f} x python -c pass   {against}".rstrip()
        )


def _run(*command: str) -> Taken:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Taken(used.ru_utime + used.ru_stime, elapsed)


def _first_paint(socket: Path, state: Path) -> Taken:
    """Until the names of the screens stand on the terminal."""
    began = time.perf_counter()
    with Program(socket, state) as kmstui:
        kmstui.press("", has("Overview", "Traffic"))
        elapsed = time.perf_counter() - began
        return Taken(kmstui.seconds_used(), elapsed)
