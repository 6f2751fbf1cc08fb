"""The host process killed again and again while many callers ask: `make kills`.

KILLS is read from the environment. Prints JSON; the exit code is 1 if a call had no answer or a plaintext was wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from tests.chaos.load import read, write
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import told
from tests.tokens import make_token

KILLS: Final = 100
CALLERS: Final = 16
_PAUSE: Final = 2.5
"""Seconds between two kills: a host that has just logged in and dies is believed to be broken, and replaced after a
pause."""


@dataclass
class Killed:
    """What came of it. outages: seconds from each kill to the first right answer to a call that began after it."""

    kills: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unanswered: int = 0
    outages: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.outages)


class _Callers:
    """answered: when the latest call that was right began, by the monotonic clock."""

    def __init__(self, kmsd: Kmsd, result: Killed) -> None:
        self.answered = 0.0
        self._kmsd = kmsd
        self._result = result
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]

    def __enter__(self) -> _Callers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self.threads:
            # No call may take longer than its deadline.
            thread.join(30.0)
        self._result.unanswered = sum(thread.is_alive() for thread in self.threads)

    def _run(self) -> None:
        while not self._over.is_set():
            began, code, right = time.monotonic(), "OK", True
            try:
                value = write(self._kmsd)
                right = read(self._kmsd, value) == value.plaintext
            except grpc.RpcError as error:
                code = told(error).code
            with self._lock:
                self._result.codes[code] += 1
                self._result.wrong += not right
                if code == "OK" and right:
                    self.answered = max(self.answered, began)


def kill(folder: Path, times: int) -> Killed:
    """Run it on a SoftHSM. Leaves nothing running."""
    result = Killed()
    token = make_token(folder / "hsm")
    home = folder / "d"
    home.mkdir()
    with Kmsd(home, token, ("--auto-create",)).start().wait_ok() as kmsd, _Callers(kmsd, result) as callers:
        for _ in range(times):
            time.sleep(_PAUSE)
            (host,) = wait_for(lambda: found if len(found := kmsd.hosts()) == 1 else None)
            began = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(host, signal.SIGKILL)
            wait_for(lambda since=began: callers.answered > since, 30, 0.002)
            result.outages.append(time.monotonic() - began)
            result.kills += 1
    return result


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        result = kill(Path(folder), int(os.environ.get("KILLS", KILLS)))
    shown = {
        "kills": result.kills,
        "callers": CALLERS,
        "calls": result.codes,
        "wrong": result.wrong,
        "unanswered": result.unanswered,
        "median outage, s": round(result.median, 3),
        "worst outage, s": round(max(result.outages), 3),
    }
    print(json.dumps(shown))  # noqa: T201  its answer
    return bool(result.wrong or result.unanswered)


if __name__ == "__main__":
    sys.exit(main())
