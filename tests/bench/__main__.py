"""make bench: what kmsd adds to a gRPC server that does nothing, on this machine, in this run.

h2load (nghttp2) sends framed gRPC bodies to the Unix sockets. The servers take turns, several rounds of each; a ratio
is taken within each round, and the median of them told, so that a machine that is busy with other things disturbs all
of them alike.

usage: python -m tests.bench [recording|serving|overload|startup|tui ...]    all of them without an argument
"""

from __future__ import annotations

import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.bench import overload, recording, startup, tui
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken, make_token

ROUNDS = 9
REQUESTS = 8000
IN_FLIGHT = 16


def main(names: Sequence[str]) -> None:
    parts = {
        "recording": recording.main,
        "serving": _serving,
        "overload": overload.main,
        "startup": startup.main,
        "tui": tui.main,
    }
    if unknown := set(names) - set(parts):
        raise SystemExit(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name, part in parts.items():
        if not names or name in names:
            part()


def _serving() -> None:
    with tempfile.TemporaryDirectory(prefix="kb") as name:
        folder = Path(name)
        body = folder / "encrypt"
        request = v2.EncryptRequest(plaintext=b"p" * 32, uid="0192c3a1-77f0-7b1e").SerializeToString()
        body.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)
        few = make_token(folder / "few")
        many = make_token(folder / "many")
        with Kmsd(_made(folder / "a"), few, ("--log-level=info", "--auto-create")) as small:
            small.wait_ok()
            small.keygen("second")
            first = _first_answer(folder, many)
            with Kmsd(_made(folder / "b"), many, ("--log-level=info", "--auto-create")) as large:
                large.wait_ok()
                many.objects(
                    *(
                        {
                            "do": "import",
                            "type": "aes",
                            "label": f"key-{n}",
                            "value": os.urandom(32).hex(),
                            "id": f"{n:08x}",
                        }
                        for n in range(499)
                    )
                )
                wait_for(lambda: large.status().keys == 500, timeout=30)
                _compare(folder, body, few, small, large)
                _memory(small, large)
        print(f"first answer after start          {first * 1000:8.0f} ms       (goal: < 1000)")


def _compare(folder: Path, body: Path, token: SoftToken, small: Kmsd, large: Kmsd) -> None:
    bare = {how: folder / f"{how}.sock" for how in ("asyncio", "uvloop", "softhsm")}
    environment = {**os.environ, **token.environment, "PIN_FILE": str(token.pin_file)}
    servers = [
        subprocess.Popen([sys.executable, "-m", "tests.bench.bare", str(path), how], env=environment)
        for how, path in bare.items()
    ]
    try:
        wait_for(lambda: all(path.exists() for path in bare.values()))
        time.sleep(0.5)
        targets = {
            "bare grpc.aio": bare["asyncio"],
            "bare grpc.aio on uvloop": bare["uvloop"],
            "the same with SoftHSM's calls": bare["softhsm"],
            "kmsd, 2 keys": small.socket,
            "kmsd, 500 keys": large.socket,
        }
        rates: dict[str, list[float]] = {name: [] for name in targets}
        for turn in range(ROUNDS + 1):
            for name, path in targets.items():
                rate = _load(path, body)
                if turn:  # the first round warms up
                    rates[name].append(rate)
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    for name, values in rates.items():
        print(f"{name:32}  {statistics.median(values):8.0f} requests/s   ({min(values):.0f} to {max(values):.0f})")
    for name, base, goal in (
        ("kmsd, 2 keys", "bare grpc.aio", "(goal: >= 0.70)"),
        ("kmsd, 2 keys", "bare grpc.aio on uvloop", ""),
        ("the same with SoftHSM's calls", "bare grpc.aio", "(what the calls alone leave of it)"),
        ("kmsd, 2 keys", "the same with SoftHSM's calls", ""),
        ("kmsd, 500 keys", "kmsd, 2 keys", "(goal: 0.90 to 1.10)"),
    ):
        ratios = sorted(one / other for one, other in zip(rates[name], rates[base], strict=True))
        middle, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(f"{f'{name} / {base}':46}{middle:8.2f}   half of the rounds {low:.2f} to {high:.2f}   {goal}")


def _load(path: Path, body: Path) -> float:
    done = subprocess.run(
        [
            "h2load", f"--requests={REQUESTS}", "--clients=1", f"--max-concurrent-streams={IN_FLIGHT}",
            f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers",
            f"--base-uri=unix:{path}", "http://localhost/v2.KeyManagementService/Encrypt",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )  # fmt: skip
    succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored", done.stdout)
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", done.stdout)
    if not succeeded or int(succeeded[1]) != REQUESTS or not rate:
        raise SystemExit(f"h2load against {path} did not succeed:\n{done.stdout}{done.stderr}")
    return float(rate[1])


def _memory(small: Kmsd, large: Kmsd) -> None:
    for name, kmsd in (("2 keys", small), ("500 keys", large)):
        assert kmsd.process is not None
        daemon, hosts = _resident(kmsd.process.pid), sum(map(_resident, kmsd.hosts()))
        print(f"RSS after the load, {name:12}  {daemon:8.1f} MiB, its host {hosts:.1f} MiB    (goal: < 90 in all)")


def _resident(pid: int) -> float:
    """MiB."""
    resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert resident is not None
    return int(resident[1]) / 1024


def _first_answer(folder: Path, token: SoftToken) -> float:
    """Seconds from exec to the first answered Status; the median of five starts."""
    seconds = []
    for number in range(5):
        kmsd = Kmsd(_made(folder / f"f{number}"), token, ("--auto-create",))
        began = time.monotonic()
        kmsd.start(wait=False)
        wait_for(kmsd.socket.exists, pause=0.002)
        kmsd.v2("Status")
        seconds.append(time.monotonic() - began)
        kmsd.stop()
    return statistics.median(seconds)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
