"""Ten thousand strangers at the port of a key manager keep no tenant from being answered."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.bench.lean import client_context, connect
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, TENANTS, Client, Manager, decrypt, well
from tests.remote.flood import KINDS
from tests.rpc.refusals import told

CONNECTIONS = 10_000
SECONDS = 6.0
STATUS_SECONDS = 1.0
NEW_SECONDS = 5.0
"""Until one who comes with a certificate in the middle of it is served, on a busy machine."""
HEALED_SECONDS = 5.0
MOST_MEMORY = 256 * 1024
"""KiB, of the key manager without the host of its token."""


@contextmanager
def flood(kind: str, port: int, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.remote.flood", kind, str(port), str(count), str(SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        yield process
        made = int(process.stdout.readline())
        assert made >= count / 2, "the strangers never came"


def _as_many() -> int:
    """How many connections one process may have here: ten thousand, where descriptors allow."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard - 256)


def _memory(kmsd: Kmsd) -> int:
    assert kmsd.process is not None
    return int(Path(f"/proc/{kmsd.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])


def _descriptors(kmsd: Kmsd) -> int:
    assert kmsd.process is not None
    return len(list(Path(f"/proc/{kmsd.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_is_answered_beside_ten_thousand_strangers(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority, kind: str
) -> None:
    proxy = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    sealed = proxy.v2("Encrypt", SEED)
    before = _descriptors(manager.kmsd)
    slowest = fresh = 0.0
    most = 0
    with flood(kind, manager.port, _as_many()) as strangers:
        while strangers.poll() is None:
            began = time.monotonic()
            assert proxy.v2("Status").healthz == "ok"
            slowest = max(slowest, time.monotonic() - began)
            assert decrypt(proxy, sealed) == SEED.plaintext
            most = max(most, _memory(manager.kmsd))
            # One that comes now, with a certificate.
            began = time.monotonic()
            newcomer = Client(manager.channel(ca.issue("b1", "DNS:node-2.cluster-a.test")))
            assert newcomer.status(timeout=20).healthz == "ok"
            fresh = max(fresh, time.monotonic() - began)
            manager.close()
            time.sleep(0.1)
    assert slowest < STATUS_SECONDS
    assert fresh < NEW_SECONDS
    assert most < MOST_MEMORY
    wait_for(lambda: _descriptors(manager.kmsd) <= before + 8, HEALED_SECONDS)
    assert decrypt(proxy, proxy.v2("Encrypt", SEED)) == SEED.plaintext


def test_callers_that_end_their_connections_in_order_leave_nothing(manager: Manager, ca: Authority) -> None:
    """After the test no line of a library may be in the log."""
    mine = ca.issue("mine", "DNS:node-1.cluster-a.test")
    before = _descriptors(manager.kmsd)

    async def come_and_go() -> None:
        context = client_context(str(ca.file), str(mine.certificate), str(mine.key))
        for _ in range(20):
            (await connect(manager.port, context, lambda milliseconds, answered: None)).close()
        await asyncio.sleep(0.5)

    asyncio.run(come_and_go())
    wait_for(lambda: _descriptors(manager.kmsd) <= before, HEALED_SECONDS)


def test_a_tenant_beyond_its_rate_waits_for_its_refusals_and_no_other_does(
    make_manager: Callable[..., Manager], ca: Authority
) -> None:
    """To refuse costs about as much as to answer: whoever is refused at once calls again at once."""
    manager = make_manager(tenants=TENANTS.replace('key_label = "kek-b"', 'key_label = "kek-b"\nmax_rate = 5'))
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    greedy = ca.issue("greedy", "DNS:g.cluster-b.test")
    honest = Client(manager.channel(ca.issue("honest", "DNS:h.cluster-a.test")))
    until, refused = time.monotonic() + 2.0, []

    def ask(client: Client) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                client.encrypt(bytes(32))
            except grpc.RpcError as error:
                if told(error).code != "RESOURCE_EXHAUSTED":
                    raise
                refused.append(time.monotonic() - began)

    with ThreadPoolExecutor(8) as callers:
        asking = [callers.submit(ask, Client(manager.channel(greedy))) for _ in range(8)]
        took = []
        while time.monotonic() < until:
            began = time.monotonic()
            honest.encrypt(bytes(32))
            took.append(time.monotonic() - began)
    for each in asking:
        each.result()
    assert min(refused) > 0.09
    assert 8 < len(refused) < 8 * 2.0 / 0.1 * 1.2
    assert sorted(took)[len(took) // 2] < 0.1
