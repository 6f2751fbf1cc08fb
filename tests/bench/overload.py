"""How much of what a token can do is answered in time when more is asked of it: goodput, and what others see of it.

A token of four sessions that takes 20, 50 or 200 ms an operation gets callers without a pause, so many that they ask
for 2, 8 and 25 times what it can do. What it can do is sessions / latency.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc.aio

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.bench.results import Results
from tests.chaos import make_chaos
from tests.daemons import Kmsd

SESSIONS = 4
FACTORS = (2, 8, 25)
"""How many times what the token can do is asked for."""
TIMEOUT = 3.0
"""Of a caller, as kube-apiserver has it."""
Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
_ENCRYPT = v2.EncryptRequest(plaintext=bytes(32)).SerializeToString()
_ENCRYPT_V1 = v1beta1.EncryptRequest(version="v1beta1", plain=bytes(32)).SerializeToString()


def measure(results: Results, folder: Path, *, latencies: Sequence[float], seconds: float) -> None:
    """latencies: seconds that the token takes for an operation. seconds: of each crowd."""
    chaos = make_chaos(folder / "chaos")
    chaos.import_aes("k8s-kek", bytes(32), b"an-id")
    (folder / "k").mkdir()
    with Kmsd(
        folder / "k",
        chaos,  # of the same shape
        (*chaos.flags, "--log-level=warning"),
        {**chaos.environment, "KMSD_TOKEN__SESSIONS": str(SESSIONS)},
        default_flags=False,
    ).start() as kmsd:
        kmsd.wait_ok()
        for latency in latencies:
            for factor in FACTORS:
                possible = SESSIONS / latency
                # Callers that wait for their answers ask for as much as they are many, a second each at the most.
                callers = max(8, int(possible * factor * min(1.0, latency * 10)))
                with chaos.told(f"C_EncryptInit delay={latency}"):
                    told = asyncio.run(_crowd(kmsd, callers, seconds))
                kmsd.wait_ok()
                goodput = told["OK"] / seconds / possible
                name = f"overload {latency * 1000:.0f} ms x{factor}"
                results.figures |= {f"{name} goodput": goodput, f"{name} status": float(told["status_ms"])}
                codes = ", ".join(f"{code} {count}" for code, count in sorted(told.items()) if code.isupper())
                print(f"{name}: {goodput:.2f} of what it can do, slowest Status {told['status_ms']} ms; {codes}")
        with chaos.told("C_EncryptInit delay=0.05"):
            told = asyncio.run(_two_apis(kmsd, seconds))
        results.figures["overload v2 beside v1beta1"] = float(told["v2 OK"])
        print(f"480 v1beta1 callers beside 40 v2 Encrypts: {told['v2 OK']} of 40 v2 answered in time", flush=True)


async def _crowd(kmsd: Kmsd, callers: int, seconds: float) -> Counter[str]:
    told: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(f"unix:{kmsd.socket}") as channel:
        encrypt: Call = channel.unary_unary("/v2.KeyManagementService/Encrypt")
        status: Call = channel.unary_unary("/v2.KeyManagementService/Status")
        until = time.monotonic() + seconds

        async def ask() -> None:
            while time.monotonic() < until:
                try:
                    await encrypt(_ENCRYPT, timeout=TIMEOUT)
                    told["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    told[error.code().name] += 1
                    await asyncio.sleep(0.1)

        async def look() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                await status(b"", timeout=TIMEOUT)
                told["status_ms"] = max(told["status_ms"], int((time.monotonic() - began) * 1000))
                await asyncio.sleep(0.2)

        await asyncio.gather(look(), *(ask() for _ in range(callers)))
    return told


async def _two_apis(kmsd: Kmsd, seconds: float) -> Counter[str]:
    told: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(f"unix:{kmsd.socket}") as channel:
        v2_encrypt: Call = channel.unary_unary("/v2.KeyManagementService/Encrypt")
        v1_encrypt: Call = channel.unary_unary("/v1beta1.KeyManagementService/Encrypt")
        until = time.monotonic() + seconds

        async def crowd() -> None:
            while time.monotonic() < until:
                try:
                    await v1_encrypt(_ENCRYPT_V1, timeout=TIMEOUT)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)

        async def few() -> None:
            for _ in range(40):
                try:
                    await v2_encrypt(_ENCRYPT, timeout=TIMEOUT)
                    told["v2 OK"] += 1
                except grpc.aio.AioRpcError as error:
                    told[f"v2 {error.code().name}"] += 1
                await asyncio.sleep(0.1)

        await asyncio.gather(few(), *(crowd() for _ in range(480)))
    return told
