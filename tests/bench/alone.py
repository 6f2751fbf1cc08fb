"""SoftHSM without any server: what a host process does for a call, in a loop. Prints rounds as JSON, by method.

usage: python -m tests.bench.alone ROUNDS SECONDS
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.bare import logged_in


def main(rounds: int, seconds: float) -> None:
    session, key = logged_in(Path(os.environ["PIN_FILE"]))
    header, plaintext = b"h" * 100, b"p" * 32
    iv, sealed = session.encrypt_gcm(key, 12, header, plaintext)
    work: dict[str, Callable[[], object]] = {
        "Encrypt": lambda: session.encrypt_gcm(key, 12, header, plaintext),
        "Decrypt": lambda: session.decrypt_gcm(key, iv, header, sealed),
    }
    print(json.dumps({name: [_round(each, seconds) for _ in range(rounds)] for name, each in work.items()}))


def _round(work: Callable[[], object], seconds: float) -> dict[str, float]:
    took = []
    cpu, began = time.process_time(), time.perf_counter()
    at = began
    while at < began + seconds:
        work()
        took.append((now := time.perf_counter()) - at)
        at = now
    cpu = time.process_time() - cpu
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    spread = {"p50": cuts[49] * 1000, "p95": cuts[94] * 1000, "p99": cuts[98] * 1000, "most": max(took) * 1000}
    return {"rate": len(took) / (at - began), **spread, "cpu": cpu / len(took) * 1e6}


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
