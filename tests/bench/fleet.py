"""Many connections to one key manager, from one process: idle proxies, a storm after a power cut, or handshakes.

usage: python -m tests.bench.fleet JSON

The JSON has port, ca, certificate, key, what (idle, storm, load or handshakes), and what that takes. It prints "ready"
when all is connected, begins when a line comes, and prints what it counted as JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import uvloop

from tests.bench.lean import Lean, Request, client_context, connect

_AT_ONCE = 32
"""Handshakes that are under way at once."""
_AGAIN_SECONDS = 1.0
"""Seconds until a caller whose call failed in a storm tries again, as kube-apiserver does."""


class Fleet:
    """told: milliseconds of each call that was answered. errors: calls that were not."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.told: list[float] = []
        self.errors = 0
        self.context = client_context(job["ca"], job["certificate"], job["key"])
        self.requests = {
            name: Request(path, bytes.fromhex(body)) for name, (path, body) in job.get("requests", {}).items()
        }

    def ended(self, milliseconds: float, answered: bool) -> None:
        if answered:
            self.told.append(milliseconds)
        else:
            self.errors += 1

    async def connected(self, count: int) -> list[Lean]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> Lean:
            async with gate:
                return await connect(self.job["port"], self.context, self.ended)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    def counted(self, began: float) -> dict[str, float]:
        cuts = statistics.quantiles(self.told, n=100) if len(self.told) > 1 else [0.0] * 99
        return {
            "seconds": monotonic() - began,
            "answered": len(self.told),
            "errors": self.errors,
            "p50": cuts[49],
            "p99": cuts[98],
            "most": max(self.told, default=0.0),
        }

    async def idle(self) -> dict[str, float]:
        """Each connection does what an idle proxy does: a Status each `interval`, a Decrypt each `proven`, and a Status
        a minute for its kube-apiserver."""
        proxies = await self.connected(self.job["connections"])
        await _go()
        began = monotonic()
        until, interval, proven = began + self.job["seconds"], self.job["interval"], self.job["proven"]

        async def proxy(number: int, each: Lean, name: str, pause: float) -> None:
            await asyncio.sleep(pause * number / len(proxies))
            while monotonic() < until:
                each.ask(self.requests[name])
                await asyncio.sleep(pause)

        async def api_servers() -> None:
            number = 0
            while monotonic() < until:
                proxies[number % len(proxies)].ask(self.requests["Status"])
                number += 1
                await asyncio.sleep(60 / len(proxies))

        checks = (("Status", interval), ("Decrypt", proven))
        await asyncio.gather(
            api_servers(), *(proxy(number, each, *check) for number, each in enumerate(proxies) for check in checks)
        )
        return self.counted(began)

    async def storm(self) -> dict[str, float]:
        """Each connection has `calls` Decrypts to have answered, `in_flight` at once; it begins by connecting."""
        await _go()
        began = monotonic()
        request, calls = self.requests["Decrypt"], self.job["calls"]
        proxies = await self.connected(self.job["connections"])
        connected = monotonic() - began

        async def caller(each: Lean, calls: int) -> None:
            for _ in range(calls):
                while True:
                    if await each.ask(request) or each.lost:
                        break
                    await asyncio.sleep(_AGAIN_SECONDS)

        lanes = min(self.job["in_flight"], calls)
        await asyncio.gather(*(caller(each, calls // lanes) for each in proxies for _ in range(lanes)))
        return {"connected": connected, **self.counted(began)}

    async def load(self) -> dict[str, float]:
        """Each connection asks without a pause, `in_flight` at once, with `pause` seconds after each answer."""
        callers = await self.connected(self.job["connections"])
        await _go()
        began = monotonic()
        until = began + self.job["seconds"]
        request = self.requests["Encrypt"]

        async def caller(each: Lean) -> None:
            while monotonic() < until and not each.lost:
                await each.ask(request)
                await asyncio.sleep(self.job["pause"])

        await asyncio.gather(*(caller(each) for each in callers for _ in range(self.job["in_flight"])))
        return self.counted(began)

    async def handshakes(self) -> dict[str, float]:
        """New connections, one after the other on each of some lanes, let go when the server has said something."""
        await _go()
        began = monotonic()
        until = began + self.job["seconds"]
        made = failed = 0

        async def lane() -> None:
            nonlocal made, failed
            while monotonic() < until:
                try:
                    (await connect(self.job["port"], self.context, self.ended)).close()
                    made += 1
                except OSError:
                    failed += 1

        await asyncio.gather(*(lane() for _ in range(_AT_ONCE)))
        return {"seconds": monotonic() - began, "answered": made, "errors": failed}


async def _go() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def main(job: Mapping[str, Any]) -> None:
    async def run() -> dict[str, float]:
        work: dict[str, Callable[[Fleet], Awaitable[dict[str, float]]]] = {
            "idle": Fleet.idle,
            "storm": Fleet.storm,
            "load": Fleet.load,
            "handshakes": Fleet.handshakes,
        }
        return await work[job["what"]](Fleet(job))

    print(json.dumps(uvloop.run(run())), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
