"""What is one number: the first answer after a start, a storm at the start, memory, a quiet half minute, half load."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench import servers
from tests.bench.burst import BurstFailedError, burst, cpu
from tests.bench.results import Results
from tests.bench.servers import Server
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken, make_token

STORM: Final = 10_000
_STORM_IN_FLIGHT: Final = 100
_HALF_SECONDS: Final = 5.0
_V2: Final = "/v2.KeyManagementService/Encrypt"
_V1BETA1: Final = "/v1beta1.KeyManagementService/Decrypt"


def measure(results: Results, folder: Path, *, starts: int, idle: float) -> None:
    """starts: of kmsd. idle: seconds in which nothing is asked."""
    token = make_token(folder / "token")
    for transport in ("h2corn", "grpcio"):
        figures = {"first answer": _first_answer(folder / f"first-{transport}", token, transport, starts)}
        with servers.kmsd(folder / transport, token, transport, "--auto-create") as server:
            try:
                figures["storm"] = _storm(server)
                figures |= _half_load(server)
            except BurstFailedError as error:
                results.notes.append(f"{server.name}: {error}")
            figures["rss"], figures["pss"] = (_memory(server.pids, name) for name in ("Rss", "Pss"))
            figures["idle"] = _idle(server.pids, idle)
        results.figures |= {f"{transport} {name}": value for name, value in figures.items()}
        print("  ".join(f"{name} {value:.3g}" for name, value in figures.items()), f"({transport})", flush=True)


def _first_answer(folder: Path, token: SoftToken, transport: str, starts: int) -> float:
    """Milliseconds from exec to the first answered Status; the median."""
    took = []
    folder.mkdir()
    for number in range(starts):
        (folder / str(number)).mkdir()
        kmsd = Kmsd(folder / str(number), token, ("--auto-create",), {"KMSD_KMS__TRANSPORT": transport})
        began = time.monotonic()
        kmsd.start(wait=False)
        wait_for(kmsd.socket.exists, pause=0.002)
        kmsd.v2("Status")
        took.append((time.monotonic() - began) * 1000)
        kmsd.stop()
    return statistics.median(took)


def _storm(server: Server) -> float:
    """Seconds for what kube-apiserver asks when it starts and reads all Secrets, of a kmsd that has just started."""
    body, answer = server.messages["v1beta1", "Decrypt"]
    told = burst(
        *(server.socket, _V1BETA1, body),
        requests=STORM,
        in_flight=_STORM_IN_FLIGHT,
        pids=server.pids,
        answer=answer,
    )
    return STORM / told.rate


def _half_load(server: Server) -> dict[str, float]:
    """p50 and p99 in milliseconds while half as much is asked as can be answered, spread evenly."""
    body, answer = server.messages["v2", "Encrypt"]

    def ask(requests: int, in_flight: int, rate: int) -> tuple[float, float, float]:
        told = burst(
            *(server.socket, _V2, body),
            requests=requests,
            in_flight=in_flight,
            pids=server.pids,
            answer=answer,
            rate=rate,
        )
        return told.rate, told.p50, told.p99

    most = statistics.median(ask(4000, 16, 0)[0] for _ in range(3))
    _, p50, p99 = ask(int(most / 2 * _HALF_SECONDS), 64, int(most / 2))
    return {"half load p50": p50, "half load p99": p99}


def _memory(pids: Sequence[int], what: str) -> float:
    """MiB of all processes. what: Rss, or Pss, which counts a page that several have in parts."""
    return sum(
        int(re.findall(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0])
        for pid in pids
    ) / (1024)


def _idle(pids: Sequence[int], seconds: float) -> float:
    """Percent of one core."""
    time.sleep(2.0)
    before = cpu(pids)
    time.sleep(seconds)
    return (cpu(pids) - before) / seconds * 100
