"""One burst of requests over one connection by h2load (nghttp2), and what it cost the processes that answered."""

from __future__ import annotations

import contextlib
import re
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.results import Burst

_NANOSECONDS: Final = 1e9


class BurstFailedError(Exception):
    """Not every request was answered."""


def framed(message: bytes) -> bytes:
    """A gRPC message as it is sent: not compressed, its length, itself."""
    return b"\0" + struct.pack(">I", len(message)) + message


def burst(
    socket: Path,
    path: str,
    body: Path,
    *,
    requests: int,
    in_flight: int,
    pids: Sequence[int],
    answer: int,
    rate: int = 0,
) -> Burst:
    """Send so many. answer: bytes of a right one, about; an error is shorter. rate: how many a second; 0: as many as
    are answered. Raises BurstFailedError."""
    with tempfile.NamedTemporaryFile(prefix="kb") as log:
        before = cpu(pids)
        done = subprocess.run(
            [
                *("h2load", f"--requests={requests}", "--clients=1", f"--max-concurrent-streams={in_flight}"),
                *([f"--rps={rate}"] if rate else []),
                *(f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers"),
                *(f"--log-file={log.name}", f"--base-uri=unix:{socket}", f"http://localhost{path}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        used = cpu(pids) - before
        lines = [line.split(b"\t") for line in log.read().splitlines()]
    succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored", done.stdout)
    told = re.search(r"finished in .*?, ([0-9.]+) req/s", done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    if not (succeeded and told and data and int(succeeded[1]) == requests):
        raise BurstFailedError(f"h2load against {socket.name} did not succeed:\n{done.stdout}{done.stderr}")
    if int(data[1]) < 0.95 * answer * requests:
        raise BurstFailedError(f"{socket.name}{path}: {int(data[1])} bytes for {requests} answers of about {answer}")
    took = sorted(int(microseconds) / 1000 for _, _, microseconds in lines)
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return Burst(float(told[1]), cuts[49], cuts[94], cuts[98], took[-1], max(0.0, used) / requests * 1e6)


def cpu(pids: Sequence[int]) -> float:
    """Seconds of CPU that processes have used, of all their threads (proc(5)); those that have ended count no more."""
    used = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                used += int(thread.read_text().split()[0])
    return used / _NANOSECONDS
