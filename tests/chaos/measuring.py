"""One fault, brought about under load and taken away again: what callers saw, when it was told, when it healed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from tests.chaos.load import Load, read, write
from tests.daemons import KMSD, Kmsd, wait_for

INTERVAL = 0.5
QUICK = {
    "KMSD_HEALTH__INTERVAL": str(INTERVAL),
    "KMSD_HEALTH__STUCK_AFTER": "1.0",
    "KMSD_KMS__REQUEST_TIMEOUT": "0.8",
    "KMSD_KEYS__REFRESH": "0.5",
}
PASSING = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})
"""What kube-apiserver tries again after."""
ROWS = "KMSD_CHAOS_ROWS"
"""The file for the measurements, a JSON line each; unset: none."""
_LOUD = frozenset({"warning", "error", "critical"})


@dataclass(frozen=True)
class Rig:
    """A kmsd that serves from a token. token: any of those in `tests`. others: those that were started beside."""

    kmsd: Kmsd
    token: Any
    folder: Path
    flags: Sequence[str]
    others: list[Kmsd] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.kmsd.process is not None
        return self.kmsd.process.pid

    @property
    def beside(self) -> Path:
        """The folder of the second kmsd, which is started while the fault is there."""
        return self.folder / "beside"

    def start_beside(self, command: tuple[str, ...]) -> Kmsd:
        other = Kmsd(self.beside, self.token, self.flags, QUICK, default_flags=False, command=(*command, KMSD, "serve"))
        self.others.append(other)
        return other.start(wait=False)


Act = Callable[[Rig], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """act: brings it about for as long as its body runs.

    told: it has to be told. fails: some calls fail, all succeed, or None: either. start: whether another kmsd is
    started meanwhile, which has to be up; with `command` before its own. seconds: for which the fault lasts at least;
    0: it is over as soon as it has begun. settled: seconds of service before it. lies: the token
    gives wrong plaintexts as if they were right, which nobody can see before the next round trip.
    """

    name: str
    group: str
    title: str
    act: Act
    on: str = "chaos"
    told: bool = True
    fails: bool | None = True
    start: bool = True
    command: tuple[str, ...] = ()
    seconds: float = 0.7
    settled: float = 0.0
    lies: bool = False
    codes: frozenset[str] = PASSING


@dataclass
class Row:
    """What was measured. blocks_start: None if it was not tried. told, healed: seconds, None if there was nothing to
    tell. lost: values that cannot be read and of which nobody was told; doubted: those that kmsd named by count.
    wrong: plaintexts that were answered and are not those that were encrypted."""

    name: str
    group: str
    title: str
    blocks_start: bool | None = None
    calls: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    told: float | None = None
    told_by: str = ""
    healed: float = 0.0
    lost: int = 0
    doubted: int = 0
    wrong: int = 0
    test: str = ""

    def record(self) -> None:
        """Add it to the file that the environment names."""
        path = os.environ.get(ROWS)
        if path:
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(self)) + "\n")


class Telling:
    """Sees when kmsd says that something is wrong: in Status, in its log, or among its problems."""

    def __init__(self, kmsd: Kmsd) -> None:
        self._kmsd = kmsd
        self._begin = kmsd.log_file.stat().st_size
        self._known = {problem.message for problem in kmsd.status().problems}

    def heard(self) -> str:
        """Where it was said; empty if it was not yet."""
        with contextlib.suppress(grpc.RpcError):
            if self._kmsd.v2("Status").healthz != "ok":
                return "Status"
        with self._kmsd.log_file.open("rb") as log:
            log.seek(self._begin)
            lines = log.read().split(b"\n")[:-1]
        if any(json.loads(line)["level"] in _LOUD for line in lines if line.startswith(b"{")):
            return "log"
        with contextlib.suppress(grpc.RpcError):
            if {problem.message for problem in self._kmsd.status().problems} - self._known:
                return "problems"
        return ""


def measure(fault: Fault, rig: Rig, test: str) -> Row:
    """Bring a fault about, and end it. Fails if kmsd ended, gave a wrong answer, lost something, or did not heal."""
    row = Row(fault.name, fault.group, fault.title, test=test)
    load = Load(rig.kmsd)
    before = _doubted(rig.kmsd)
    shutil.rmtree(rig.beside, ignore_errors=True)
    rig.beside.mkdir()
    with contextlib.ExitStack() as ending:
        with load.running():
            time.sleep(fault.settled)
            telling = Telling(rig.kmsd)
            began = time.monotonic()
            with fault.act(rig):
                other = ending.enter_context(rig.start_beside(fault.command)) if fault.start else None
                if fault.seconds:
                    _last(fault, telling, row, began)
                late = load.wrong
                if other is not None:
                    row.blocks_start = not _comes_up(other)
            ended = time.monotonic() if fault.seconds else began
            while not well(rig.kmsd):
                _listen(telling, row, began)
                assert time.monotonic() < ended + 30, f"{fault.title}: it does not heal"
                time.sleep(0.02)
            row.healed = time.monotonic() - ended
            _last(replace(fault, seconds=0), telling, row, began)
        row.wrong = load.wrong
        row.calls, row.failed = load.codes.total(), load.failed
        unreadable = load.lost()
        row.doubted = _doubted(rig.kmsd) - before
        row.lost = max(0, unreadable - row.doubted)
        if other is not None:
            wait_for(lambda: well(other), 30)
    row.record()
    assert rig.kmsd.process is not None
    assert rig.kmsd.process.poll() is None
    assert row.wrong == (late if fault.lies else 0), row
    assert row.lost == 0
    assert not row.blocks_start
    assert set(row.failed) <= fault.codes, row
    assert fault.fails in (None, bool(row.failed)), row
    return row


def _last(fault: Fault, telling: Telling, row: Row, began: float) -> None:
    """Wait as long as the fault lasts, and until it was told if it has to be."""
    while True:
        _listen(telling, row, began)
        if time.monotonic() >= began + fault.seconds and not (fault.told and row.told is None):
            return
        assert time.monotonic() < began + 20, f"{fault.title}: nobody was told"
        time.sleep(0.02)


def _listen(telling: Telling, row: Row, began: float) -> None:
    if row.told is None and (where := telling.heard()):
        row.told, row.told_by = time.monotonic() - began, where


def _comes_up(kmsd: Kmsd, seconds: float = 15.0) -> bool:
    """Whether both its sockets answer, well or not."""
    assert kmsd.process is not None
    until = time.monotonic() + seconds
    while kmsd.process.poll() is None and time.monotonic() < until:
        # A channel that has found nobody waits before it looks again.
        if not (kmsd.socket.exists() and kmsd.admin_socket.exists()):
            time.sleep(0.02)
            continue
        with contextlib.suppress(grpc.RpcError):
            kmsd.v2("Status")
            kmsd.status()
            return True
        time.sleep(0.05)
    return False


def well(kmsd: Kmsd) -> bool:
    """Whether Status is ok, and a value goes round."""
    try:
        if kmsd.v2("Status").healthz != "ok":
            return False
        value = write(kmsd)
        return read(kmsd, value) == value.plaintext
    except grpc.RpcError:
        return False


def _doubted(kmsd: Kmsd) -> int:
    """How many values kmsd has said may not decrypt."""
    path = kmsd.folder / "state" / "audit.jsonl"
    records = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return sum(int(each["detail"].split()[0]) for each in records if each["action"] == "values in doubt")
