"""A key manager and a proxy: what the way between costs, many proxies, a power cut, and a tenant beyond its rate."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.service.remote import PROVEN_SECONDS
from tests.bench import servers, serving
from tests.bench.burst import cpu, framed
from tests.bench.cases import Load, Plan
from tests.bench.results import Case, Results
from tests.daemons import KMSD, Kmsd
from tests.remote.certificates import Authority, Issued
from tests.tokens import SoftToken, make_token

LOADS: Final[tuple[Load, ...]] = tuple(
    ("v2", method, in_flight) for method in ("Encrypt", "Decrypt", "Status") for in_flight in (1, 16)
)
INTERVAL: Final = 10.0
"""Seconds between two looks of a proxy at its key manager, as health.interval has them."""
_CLIENTS: Final = 2
"""Processes that many connections come from."""
_TENANTS: Final = """
[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "kek-a"

[[tenants]]
name = "greedy"
san = ["DNS:*.greedy.test"]
key_label = "kek-greedy"
max_rate = 100
"""


@dataclass(frozen=True)
class Size:
    """How much of each. seconds: that idle proxies are looked at. storm: connections, and v1beta1 Decrypts of each."""

    proxies: int
    seconds: float
    storm: tuple[int, int]
    handshakes: float
    rounds: int
    each: float


FULL: Final = Size(500, 20.0, (300, 200), 5.0, 5, 2.0)
QUICK: Final = Size(12, 1.0, (6, 10), 0.5, 1, 0.5)


@dataclass(frozen=True)
class Site:
    """A key manager, and the files of its callers. proxy: a real one, of cluster-a."""

    manager: Kmsd
    proxy: Kmsd
    port: int
    ca: Authority
    callers: Mapping[str, Issued]

    @property
    def pids(self) -> list[int]:
        assert self.manager.process is not None
        return [self.manager.process.pid, *self.manager.hosts()]


def measure(results: Results, folder: Path, plan: Plan, size: Size) -> None:
    """Measure all of it."""
    token = make_token(folder / "token")
    with _site(folder, token) as site:
        _side_by_side(results, folder, site, replace(plan, rounds=size.rounds, seconds=plan.seconds))
        figures = {**_proxy_at_rest(site, size), **_many(site, size)}
        figures |= _power_cut(site, size)
        figures |= _handshakes(site, size)
        figures |= _beside_a_greedy_one(site, size)
    results.figures |= {f"remote {name}": value for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name}: {value:.4g}", flush=True)


@contextlib.contextmanager
def _site(folder: Path, token: SoftToken) -> Iterator[Site]:
    ca = Authority(folder / "ca")
    shown = ca.issue("manager", "DNS:manager.test", "IP:127.0.0.1", server=True)
    names = {"node": "DNS:node.cluster-a.test", "greedy": "DNS:node.greedy.test", "honest": "DNS:h.cluster-a.test"}
    callers = {name: ca.issue(name, san) for name, san in names.items()}
    port = _free_port()
    config = folder / "config.toml"
    config.write_text(_TENANTS)
    for name in ("m", "p"):
        (folder / name).mkdir()
    flags = (
        *("--auto-create", f"--config={config}", "--enable-server", "--host=127.0.0.1", f"--port={port}"),
        *(f"--tls-ca={ca.file}", f"--tls-certificate={shown.certificate}", f"--tls-key={shown.key}"),
    )
    asked = (
        *(f"--upstream=127.0.0.1:{port}", f"--tls-ca={ca.file}"),
        *(f"--tls-certificate={callers['node'].certificate}", f"--tls-key={callers['node'].key}"),
    )
    quiet = ("--log-level=warning",)
    # Neither is a fork: a process that has more imported than it needs would weigh more.
    manager = Kmsd(folder / "m", token, flags, logging=quiet, forked=False)
    proxy = Kmsd(folder / "p", token, asked, command=(KMSD, "proxy"), default_flags=False, logging=quiet, forked=False)
    with manager.start().wait_ok(), proxy.start().wait_ok():
        yield Site(manager, proxy, port, ca, callers)


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _side_by_side(results: Results, folder: Path, site: Site, plan: Plan) -> None:
    turns = []
    for name, kmsd in (("kmsd, its own socket", site.manager), ("kmsd proxy", site.proxy)):
        place = folder / f"messages-{kmsd.folder.name}"
        place.mkdir()
        assert kmsd.process is not None
        server = servers.Server(name, kmsd.socket, kmsd.process.pid, servers.ask_for_messages(place, kmsd.socket), kmsd)
        turns.append((server, Case(name, "", "", 0)))
    serving.take_turns(results, "remote", turns, plan, plan.side_by_side)


def _proxy_at_rest(site: Site, size: Size) -> dict[str, float]:
    assert site.proxy.process is not None
    pids = [site.proxy.process.pid]
    return {"proxy rss": _rss(pids), "proxy idle": _percent(pids, size.seconds / 2)}


def _many(site: Site, size: Size) -> dict[str, float]:
    """What idle proxies cost a key manager: what it takes with them, and what it takes without."""
    before, descriptors = _rss(site.pids), _descriptors(site)
    quiet = _percent(site.pids, size.seconds / 2)
    jobs = [
        {
            "what": "idle",
            "connections": size.proxies // _CLIENTS,
            "seconds": size.seconds + 4,
            "interval": min(INTERVAL, size.seconds),
            "proven": PROVEN_SECONDS,
        }
    ] * _CLIENTS
    with _fleet(site, "node", jobs, "v2") as fleet:
        fleet.go()
        time.sleep(1.0)
        used = _percent(site.pids, size.seconds)
        figures = {
            "idle proxies": float(size.proxies // _CLIENTS * _CLIENTS),
            "idle rss before": before,
            "idle rss": _rss(site.pids),
            "idle cpu before": quiet,
            "idle cpu": used,
            "idle descriptors": float(_descriptors(site) - descriptors),
        }
        told = fleet.told()
    return figures | {
        "idle errors": sum(each["errors"] for each in told),
        "idle p99": max(each["p99"] for each in told),
    }


def _power_cut(site: Site, size: Size) -> dict[str, float]:
    """All nodes connect and decrypt at once: by v1beta1 every Secret has a data key of its own, by v2 all have one."""
    connections, calls = size.storm
    figures: dict[str, float] = {"storm connections": float(connections), "storm calls": float(connections * calls)}
    for api, each in (("v1beta1", calls), ("v2", 1)):
        job = {"what": "storm", "connections": connections // _CLIENTS, "calls": each, "in_flight": 4}
        before = cpu(site.pids)
        with _fleet(site, "node", [job] * _CLIENTS, api) as fleet:
            fleet.go()
            told = fleet.told()
        answered = sum(each["answered"] for each in told)
        figures |= {
            f"storm {api} seconds": max(each["seconds"] for each in told),
            f"storm {api} connected": max(each["connected"] for each in told),
            f"storm {api} answered": answered,
            f"storm {api} errors": sum(each["errors"] for each in told),
            f"storm {api} most": max(each["most"] for each in told),
            f"storm {api} cpu": (cpu(site.pids) - before) / max(1, answered) * 1e6,
        }
    return figures


def _handshakes(site: Site, size: Size) -> dict[str, float]:
    job = {"what": "handshakes", "seconds": size.handshakes}
    before = cpu(site.pids)
    with _fleet(site, "node", [job] * _CLIENTS, "v2") as fleet:
        fleet.go()
        told = fleet.told()
    made = sum(each["answered"] for each in told)
    return {
        "handshakes": made / max(each["seconds"] for each in told),
        "handshakes errors": sum(each["errors"] for each in told),
        "handshakes cpu": (cpu(site.pids) - before) / max(1, made) * 1e6,
    }


def _beside_a_greedy_one(site: Site, size: Size) -> dict[str, float]:
    """An honest tenant's Encrypt, one at a time, alone and beside one that asks for more than its rate, in turns."""
    honest = {"what": "load", "connections": 1, "in_flight": 1, "pause": 0.01, "seconds": size.each}
    greedy = {"what": "load", "connections": 4, "in_flight": 4, "pause": 0.0, "seconds": size.each + 1.0}
    told: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    refused = 0.0
    for _ in range(size.rounds):
        with _fleet(site, "honest", [honest], "v2") as fleet:
            fleet.go()
            told["alone"] += fleet.told()
        with _fleet(site, "greedy", [greedy], "v2") as other, _fleet(site, "honest", [honest], "v2") as fleet:
            other.go()
            time.sleep(0.3)
            fleet.go()
            told["beside"] += fleet.told()
            refused += other.told()[0]["errors"]
    figures = {"greedy refused": refused / size.rounds / (size.each + 1.0)}
    for name, rounds in told.items():
        for what in ("p50", "p99"):
            figures[f"honest {name} {what}"] = sorted(each[what] for each in rounds)[len(rounds) // 2]
        figures[f"honest {name} errors"] = sum(each["errors"] for each in rounds)
    return figures


# Processes that many connections come from.


class _Fleet:
    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def go(self) -> None:
        """Have them begin, all at once: each is connected."""
        for each in self._processes:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()

    def told(self) -> list[dict[str, float]]:
        """What each has counted, when all have ended."""
        return [json.loads(each.communicate(timeout=180)[0]) for each in self._processes]


@contextlib.contextmanager
def _fleet(site: Site, caller: str, jobs: Sequence[Mapping[str, Any]], api: str) -> Iterator[_Fleet]:
    shown = site.callers[caller]
    common = {
        "port": site.port,
        "ca": str(site.ca.file),
        "certificate": str(shown.certificate),
        "key": str(shown.key),
        "requests": _requests(site, api),
    }
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.fleet", json.dumps({**common, **job})],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for job in jobs
        ]
        for each in processes:
            running.callback(each.kill)
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        yield _Fleet(processes)


def _requests(site: Site, api: str) -> dict[str, tuple[str, str]]:
    """Path and body of each request, framed and in hexadecimal. What is decrypted was encrypted by the proxy."""
    bodies: dict[str, bytes] = {"Status": b""}
    if api == "v2":
        request = v2.EncryptRequest(plaintext=bytes(32), uid="u")
        sealed = site.proxy.v2("Encrypt", request)
        back = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        bodies |= {"Encrypt": request.SerializeToString(), "Decrypt": back.SerializeToString()}
    else:
        old = site.proxy.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=bytes(32)))
        bodies["Decrypt"] = v1beta1.DecryptRequest(version="v1beta1", cipher=old.cipher).SerializeToString()
    return {
        name: (f"/{api if name != 'Status' else 'v2'}.KeyManagementService/{name}", framed(body).hex())
        for name, body in bodies.items()
    }


def _rss(pids: Sequence[int]) -> float:
    """MiB of all processes, as each has them."""
    return sum(
        int(re.findall(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]) for pid in pids
    ) / (1024)


def _percent(pids: Sequence[int], seconds: float) -> float:
    """Percent of one core that processes take for so long from now on."""
    before, began = cpu(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu(pids) - before) / (time.monotonic() - began) * 100


def _descriptors(site: Site) -> int:
    return len(list(Path(f"/proc/{site.pids[0]}/fd").iterdir()))
