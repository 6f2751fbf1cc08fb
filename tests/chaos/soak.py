"""kmsd for a long time under load, rotations and random faults, and what is left of it then: `make soak`.

SOAK_SECONDS and SOAK_SEED are read from the environment. Prints a line for each minute, and JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import grpc

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.chaos import ChaosToken, make_chaos
from tests.chaos.faults import OPERATIONS, RETURNS
from tests.chaos.load import Load
from tests.chaos.measuring import QUICK, well
from tests.daemons import Kmsd, wait_for

SECONDS: Final = 1800.0
_WARM: Final = 0.4
"""Of the time, until memory and descriptors are measured for the first time."""
_ROTATIONS: Final = 12
_KEPT: Final = 4000
"""Values that are read back at the end; those whose first reading failed are, in any case."""


@dataclass
class Soaked:
    """What came of it. rss: bytes, after the warm-up and at the end. descriptors: the same."""

    seconds: float
    seed: int
    calls: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    rotations: int = 0
    wrong: int = 0
    lost: int = 0
    rss: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)
    zombies: int = 0
    hosts: int = 0
    exits: int = 0
    """How often kmsd itself ended."""

    @property
    def growth(self) -> float:
        """Of the memory, as a share of that after the warm-up."""
        return self.rss[1] / self.rss[0] - 1


class _Soak:
    def __init__(self, kmsd: Kmsd, token: ChaosToken, chance: random.Random, result: Soaked) -> None:
        assert kmsd.process is not None
        self._kmsd = kmsd
        self._pid = kmsd.process.pid
        self._token = token
        self._chance = chance
        self._result = result
        self._faults: Counter[str] = Counter()

    def run(self, load: Load) -> None:
        result, began = self._result, time.monotonic()
        warm, rotate, minute = began + _WARM * result.seconds, began, began
        while time.monotonic() < began + result.seconds:
            if time.monotonic() > rotate:
                rotate += result.seconds / _ROTATIONS
                self._rotate()
            if warm and time.monotonic() > warm:
                warm = 0.0
                first = self._measure()
            if time.monotonic() > minute:
                minute += 60
                print(f"{time.monotonic() - began:6.0f} s, {load.codes.total()} calls", file=sys.stderr)  # noqa: T201
            self._disturb()
            time.sleep(self._chance.uniform(0.5, 2.5))
        last = self._measure()
        result.rss, result.descriptors = (first[0], last[0]), (first[1], last[1])
        result.faults = dict(sorted(self._faults.items()))

    def _rotate(self) -> None:
        self._quiet()
        with contextlib.suppress(grpc.RpcError):
            self._kmsd.admin("RotateKey", admin.RotateKeyRequest(), 20.0)
            self._result.rotations += 1

    def _disturb(self) -> None:
        """One fault, and the end of it."""
        kind = self._chance.choice(("kill", "stop", "error", "error", "crash", "hang", "slow"))
        self._faults[kind] += 1
        if kind in ("kill", "stop"):
            for host in self._kmsd.hosts():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(host, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
            return
        function = self._chance.choice(tuple(OPERATIONS.values()))
        what = {
            "error": f"rv={self._chance.choice(tuple(RETURNS.values())):#x}",
            "crash": "crash",
            "hang": "hang",
            "slow": "delay=0.1",
        }[kind]
        with self._token.told(f"{function} {what}"):
            time.sleep(self._chance.uniform(0.1, 1.5))

    def _quiet(self) -> None:
        wait_for(lambda: well(self._kmsd), 60)

    def _measure(self) -> tuple[int, int]:
        """Resident bytes and open descriptors, once all is well and hosts that were replaced have ended."""
        self._quiet()
        wait_for(lambda: len(self._kmsd.hosts()) == 1, 30)
        time.sleep(1)
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{self._pid}/fd").iterdir()))


def soak(folder: Path, seconds: float, seed: int) -> Soaked:
    """Run it. Leaves nothing running."""
    result = Soaked(seconds, seed)
    token = make_chaos(folder / "hsm")
    token.import_aes("k8s-kek", bytes(range(32)), b"first")
    home = folder / "d"
    home.mkdir()
    logging = ("--log-level=info", "--log-format=json")
    kmsd = Kmsd(home, token, token.flags, QUICK, default_flags=False, logging=logging)
    kmsd.forked = False
    with kmsd.start().wait_ok():
        load = Load(kmsd, 0.02, most=_KEPT)
        with load.running():
            _Soak(kmsd, token, random.Random(seed), result).run(load)  # noqa: S311  nothing secret is made of it
        result.calls, result.wrong, result.lost = dict(sorted(load.codes.items())), load.wrong, load.lost(60.0)
        assert kmsd.process is not None
        result.exits = int(kmsd.process.poll() is not None)
        # The last fault may have had one replaced, and the old one has a moment to end.
        with contextlib.suppress(AssertionError):
            wait_for(lambda: len(kmsd.hosts()) == 1, 15)
        result.hosts = len(kmsd.hosts())
        result.zombies = _zombies(kmsd.process.pid)
    return result


def _zombies(parent: int) -> int:
    """How many children have ended and were not waited for."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sum(Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z" for each in children)


def failures(result: Soaked) -> list[str]:
    """What is not as it has to be."""
    found = {
        f"{result.wrong} wrong plaintexts": result.wrong,
        f"{result.lost} values lost": result.lost,
        f"memory grew by {result.growth:.1%}": result.growth >= 0.05,
        f"descriptors went from {result.descriptors[0]} to {result.descriptors[1]}": result.descriptors[1]
        > result.descriptors[0],
        f"{result.zombies} zombies": result.zombies,
        f"{result.hosts} hosts for one token": result.hosts != 1,
        "kmsd ended": result.exits,
        "nothing was rotated": not result.rotations,
    }
    return [what for what, failed in found.items() if failed]


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", SECONDS))
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        result = soak(Path(folder), seconds, seed)
    print(json.dumps({**asdict(result), "growth": round(result.growth, 4)}))  # noqa: T201  its answer
    for failure in (failed := failures(result)):
        print(failure, file=sys.stderr)  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
