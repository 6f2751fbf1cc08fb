"""What `tests.bench.remote` measured, for docs/PERFORMANCE.md, and docs/sizing.md, which counts on from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kmsd.config.remote import MAX_TENANTS, Server
from kmsd.config.settings import Health
from kmsd.hsm.address import AUTO_SESSIONS_GROWN
from kmsd.service.remote import PROVEN_SECONDS
from tests.bench.remote import INTERVAL, LOADS
from tests.bench.results import Results, Row, ratio

_CLUSTERS: Final = 1000
_NODES: Final = 3
_SECRETS: Final = 1000
_SEEDS: Final = 20
_LATENCIES: Final = (1, 5, 20)
"""Milliseconds that an HSM takes for an operation."""
_MISSING: Final = "(not measured)"
_TITLE: Final = "Key manager and proxy"
_TEXT: Final = Path(__file__).with_name("sizing.md")
OWN, PROXY = "kmsd, its own socket", "kmsd proxy"


_LINES: Final = (
    ("A proxy that nothing is asked of: RSS, MiB", ".0f", "proxy rss"),
    ("the same: CPU, % of a core", ".2f", "proxy idle"),
    ("Idle proxies on one key manager", ",.0f", "idle proxies"),
    ("its RSS without and with them, MiB", ".0f", "idle rss before", "idle rss"),
    ("its CPU without and with them, % of a core", ".1f", "idle cpu before", "idle cpu"),
    ("descriptors for them", ",.0f", "idle descriptors"),
    ("their calls that failed, p99 in ms", ".0f", "idle errors", "idle p99"),
    ("Connections that come at once after a power cut", ",.0f", "storm connections"),
    (
        "v1beta1: Decrypts answered, and refused or late before",
        ",.0f",
        "storm v1beta1 answered",
        "storm v1beta1 errors",
    ),
    ("v1beta1: seconds until all are, slowest in ms", ",.1f", "storm v1beta1 seconds", "storm v1beta1 most"),
    ("v2, one data key each: answered, and refused or late before", ",.0f", "storm v2 answered", "storm v2 errors"),
    ("v2: seconds until all are, slowest in ms", ",.1f", "storm v2 seconds", "storm v2 most"),
    ("TLS handshakes in a second, CPU of each in us", ",.0f", "handshakes", "handshakes cpu"),
    ("An honest tenant alone: p50, p99 of Encrypt, ms", ".2f", "honest alone p50", "honest alone p99"),
    ("beside one over its rate: p50, p99, ms", ".2f", "honest beside p50", "honest beside p99"),
    ("calls of that one that were refused in a second", ",.0f", "greedy refused"),
)
"""What stands in the table: in words, form, and names of figures."""


class _Figures:
    """The figures of the group "remote". What was not measured is NaN in sums, and says so in words."""

    def __init__(self, results: Results) -> None:
        self._found = results.figures

    def __getitem__(self, name: str) -> float:
        return self._found.get(f"remote {name}", float("nan"))

    def words(self, value: float | str, form: str = ",.0f") -> str:
        number = self[value] if isinstance(value, str) else value
        return _MISSING if math.isnan(number) else format(number, form)


def part(results: Results) -> str:
    """Return the part of docs/PERFORMANCE.md."""
    figures = _Figures(results)
    rows = [
        [method, str(in_flight), *_side(own), *_side(proxy), str(ratio(proxy, own) or "")]
        for _, method, in_flight in LOADS
        for own in [_row(results, OWN, method, in_flight)]
        for proxy in [_row(results, PROXY, method, in_flight)]
        if own is not None and proxy is not None
    ]
    if not rows:
        return f"\n## {_TITLE}\n\nNot measured yet: `make bench ARGS=remote`.\n"
    head = ["Method (v2)", "In flight"]
    head += [f"{name}: {what}" for name in ("own", "proxy") for what in ("requests/s", "p50", "p99", "CPU")]
    lines = [[what, ", ".join(figures.words(each, form) for each in names)] for what, form, *names in _LINES]
    return (
        f"\n## {_TITLE}\n\nMeasured by itself (`make bench ARGS=remote`), all on this machine, TLS 1.3 in between; "
        "the clients of many connections share the cores with the key manager. [sizing.md](sizing.md) counts on from "
        "here.\n\n"
        + _table([*head, "proxy beside own"], rows)
        + "\nTimes in ms; CPU in microseconds a request, of the process that has the socket and its hosts.\n\n"
        + _table(["What", "Measured"], lines)
    )


def _row(results: Results, server: str, method: str, in_flight: int) -> Row | None:
    return results.find(group="remote", server=server, method=method, in_flight=in_flight)


def _side(row: Row) -> list[str]:
    return [
        f"{row.median('rate'):,.0f}",
        f"{row.median('p50'):.2f}",
        f"{row.median('p99'):.2f}",
        f"{row.median('cpu'):.0f}",
    ]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def sizing(results: Results) -> str:
    """Return docs/sizing.md."""
    figures = _Figures(results)
    told = figures.words
    nodes = _CLUSTERS * _NODES
    kib_each = (figures["idle rss"] - figures["idle rss before"]) / figures["idle proxies"] * 1024
    each_asks = 1 / INTERVAL + 1 / PROVEN_SECONDS + 1 / 60
    calls, some = nodes * each_asks, figures["idle proxies"] * each_asks
    cpu_of_calls = (figures["idle cpu"] - figures["idle cpu before"]) / some
    rate = figures["storm v1beta1 answered"] / figures["storm v1beta1 seconds"]
    rates = {each: min(rate, AUTO_SESSIONS_GROWN * 1000 / each) for each in _LATENCIES}
    lines = [
        [
            f"{each} ms",
            f"{AUTO_SESSIONS_GROWN * 1000 / each:,.0f}",
            told(possible),
            told(nodes * _SECRETS / possible / 60),
            told(nodes * _SEEDS / possible),
        ]
        for each, possible in rates.items()
    ]
    return _TEXT.read_text().format(
        machine=results.machine.partition(", load")[0],
        clusters=f"{_CLUSTERS:,}",
        nodes_each=_NODES,
        nodes=f"{nodes:,}",
        interval=f"{INTERVAL:.0f}",
        secrets=f"{_SECRETS:,}",
        seeds=_SEEDS,
        sessions=AUTO_SESSIONS_GROWN,
        max_connections=f"{Server().max_connections:,}",
        max_tenants=f"{MAX_TENANTS:,}",
        descriptors=told(figures["idle descriptors"] / figures["idle proxies"]),
        descriptors_kept=f"{nodes * 6:,}",
        kib_each=told(kib_each),
        mib_all=told(kib_each * nodes / 1024),
        mib_before=told("idle rss before"),
        calls=f"{calls:,.0f}",
        checks=f"{nodes / INTERVAL:,.0f}",
        statuses=f"{nodes / 60:,.0f}",
        own_health=f"{_CLUSTERS * 2 / Health().interval:,.0f}",
        proofs=f"{nodes / PROVEN_SECONDS:,.0f}",
        at_rest=f"{nodes / PROVEN_SECONDS + _CLUSTERS * 2 / Health().interval:,.0f}",
        cpu_of_calls=told(cpu_of_calls * calls),
        proxy_rss=told("proxy rss"),
        proxy_idle=told("proxy idle", ".2f"),
        handshakes=told("handshakes"),
        connected=told(nodes / figures["handshakes"]),
        rate=told(rate),
        storm_connections=told("storm connections"),
        storm_calls=told("storm calls"),
        storm_errors=told("storm v1beta1 errors"),
        storm_cpu=told("storm v1beta1 cpu"),
        greedy=told("greedy refused"),
        alone_p50=told("honest alone p50", ".1f"),
        alone_p99=told("honest alone p99", ".1f"),
        beside_p50=told("honest beside p50", ".1f"),
        beside_p99=told("honest beside p99", ".1f"),
        table="".join(f"| {' | '.join(line)} |\n" for line in lines).rstrip(),
    )


def write(results: Results, folder: Path) -> None:
    """Write docs/sizing.md."""
    (folder / "sizing.md").write_text(sizing(results))
