"""The goals, each beside what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kmsd.hsm.address import AUTO_SESSIONS_GROWN
from tests.bench.cases import KEYS, LATENCIES
from tests.bench.results import Results, Row, ratio, spread
from tests.bench.servers import BARE, PEERS, PLUGIN

KMSD = "kmsd, h2corn"
OLD_RATE = 1840
"""Encrypts a second that a program which opens a session for each call does with a token of 2 ms."""


@dataclass(frozen=True)
class Goal:
    """One goal. measured, reached: empty and None if it was not measured."""

    what: str
    goal: str
    measured: str
    reached: bool | None


def goals(results: Results) -> Iterator[Goal]:
    """All of them, in the order of the page."""
    for method in ("Encrypt", "Decrypt"):
        ours = _row(results, "side by side", KMSD, method)
        for name in PEERS:
            # k8s-kms-plugin answers v1beta1 alone, mock-kms v2 alone.
            api, through, least = ("v1beta1", ", both through v1beta1", 2.5) if name == PLUGIN else ("v2", "", 1.0)
            one, other = (_row(results, "side by side", each, method, api) for each in (KMSD, name))
            yield _ratio(f"{method}, 16 in flight, beside {name}{through}", one, other, least)
        bare = _row(results, "side by side", BARE[2], method)
        yield _ratio(f"{method}, 16 in flight, beside {BARE[2]} and nothing else", ours, bare, 0.8)
    one, other = (
        results.find(group="side by side", server=each, api="v1beta1", method="Encrypt", in_flight=1)
        for each in (KMSD, PLUGIN)
    )
    if one is not None and other is not None:
        alone = one.median("p50") / other.median("p50")
        yield Goal(f"p50 of Encrypt for one caller, beside {PLUGIN}", "<= 1", f"{alone:.2f}", alone <= 1)
    for method in ("Encrypt", "Decrypt"):
        few, many = (
            results.find(group="keys", server=KMSD, api="v2", method=method, in_flight=16, keys=count)
            for count in (KEYS[0], KEYS[-1])
        )
        yield _ratio(f"{method} with {KEYS[-1]:,} keys, beside {KEYS[0]}", many, few, 0.95, 1.05)
        one, other = (
            results.find(group="keys", server=each, api="v1beta1", method=method, in_flight=16, keys=KEYS[1])
            for each in (KMSD, PLUGIN)
        )
        yield _ratio(f"{method} with {KEYS[1]} keys, beside {PLUGIN}, both through v1beta1", one, other, 100.0)
    for seconds in LATENCIES:
        row = results.find(group="latency", server=KMSD, method="Encrypt", in_flight=64, latency=seconds)
        what = f"Encrypt, 64 in flight, token of {seconds * 1000:.0f} ms"
        if row is not None:
            part = spread([burst.rate * seconds / AUTO_SESSIONS_GROWN for burst in row.bursts])
            yield Goal(f"{what}, of {AUTO_SESSIONS_GROWN} sessions / latency", ">= 0.90", str(part), part.middle >= 0.9)
        if row is not None and seconds == LATENCIES[0]:
            rate = row.median("rate")
            yield Goal(f"{what}, a second", f">= {OLD_RATE:,}", f"{rate:,.0f}", rate >= OLD_RATE)
    row = _row(results, "jwt", "kmsd, ES256", "Sign", "jwt")
    if row is not None:
        rate = row.median("rate")
        yield Goal("Service account tokens by ES256, 16 in flight, a second", ">= 2,000", f"{rate:,.0f}", rate >= 2000)
    for transport in ("h2corn", "grpcio"):
        yield _figure(results, f"{transport} first answer", "First answer after a start, ms", 1000, transport)
        yield _figure(
            results, f"{transport} storm", "10,000 v1beta1 Decrypts after a start, 100 in flight, s", 2, transport
        )
        p50, p99 = (results.figures.get(f"{transport} half load {which}") for which in ("p50", "p99"))
        what = f"p99 / p50 of Encrypt at half load ({transport})"
        times = p99 / p50 if p50 and p99 else None
        yield Goal(what, "<= 3", "" if times is None else f"{times:.1f}", None if times is None else times <= 3)
        yield _figure(results, f"{transport} idle", "CPU while nothing is asked, % of a core", 0.5, transport)
        yield _figure(results, f"{transport} rss", "RSS of all processes after that, MiB", 90, transport)
    for name in dict.fromkeys(each.rpartition(" ")[0] for each in results.figures if re.match("overload .* x", each)):
        goodput, status = results.figures[f"{name} goodput"], results.figures[f"{name} status"]
        yield Goal(f"{name}: answered in time, of what the token can do", ">= 0.85", f"{goodput:.2f}", goodput >= 0.85)
        yield Goal(f"{name}: slowest Status, ms", "< 100", f"{status:.0f}", status < 100)
    own, proxied = (
        results.find(group="remote", server=name, method="Encrypt", in_flight=1)
        for name in ("kmsd, its own socket", "kmsd proxy")
    )
    if own is not None and proxied is not None:
        times = proxied.median("p50") / own.median("p50")
        yield Goal("p50 of Encrypt through a proxy, beside a socket of one's own", "<= 2", f"{times:.1f}", times <= 2)


def _row(results: Results, group: str, server: str, method: str, api: str = "v2") -> Row | None:
    return results.find(group=group, server=server, api=api, method=method, in_flight=16)


def _ratio(what: str, one: Row | None, other: Row | None, least: float, most: float = 0.0) -> Goal:
    told = ratio(one, other)
    goal = f"{least:.2f} to {most:.2f}" if most else f">= {least:.2f}"
    if told is None:
        return Goal(what, goal, "", None)
    return Goal(what, goal, str(told), least <= told.middle and (not most or told.middle <= most))


def _figure(results: Results, name: str, what: str, bound: float, transport: str) -> Goal:
    value = results.figures.get(name)
    text = "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return Goal(f"{what} ({transport})", f"< {bound:g}", text, None if value is None else value < bound)
