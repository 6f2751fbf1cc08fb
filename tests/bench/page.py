"""Writes docs/PERFORMANCE.md, docs/performance.svg and docs/sizing.md from the results, with tests/bench/tried.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench import sizing
from tests.bench.goals import KMSD, goals
from tests.bench.plot import bars
from tests.bench.results import Results, Row, ratio
from tests.bench.servers import BARE, PEERS

_DOCS = Path(__file__).parents[2] / "docs"
_TRIED = Path(__file__).with_name("tried.md")
_HEAD = """\
# Performance

<!-- Written by `make bench`: change tests/bench/, not this page. -->

What kmsd answers, how fast, and what it costs, beside servers that do nothing and beside its peers: measured on one
machine, by one program, in turns. `make bench` measures anew, in some ten minutes on a machine on which nothing else
runs, and writes this page; `make bench ARGS=--full` measures every combination, `PEERS=FOLDER make bench` with
`k8s-kms-plugin` and `mock-kms` (Kubernetes' own example) in that folder measures them, too.

Measured on {machine}.
Client and server share the machine. Load comes over one connection, as from kube-apiserver. The servers take
turns, round by round; a ratio is taken within a round, and told as the median, with the quarters of the rounds below
and above in brackets. Milliseconds are medians over the rounds; CPU is that of all processes of a server. *bare* does
nothing; *and SoftHSM's calls* encrypts on its event loop, with nothing of kmsd around it: no queue, no deadline, no
other process, and it stands still when its token does.
"""
_PICTURE = "\n![Requests answered in a second](performance.svg)\n"


def write(results: Results) -> None:
    """Write the page with its picture, and the page that counts on from it."""
    sizing.write(results, _DOCS)
    shown = [
        row
        for name in (KMSD, "kmsd, grpcio", *PEERS, *BARE[2:])
        if (row := results.find(group="side by side", server=name, api="v2", method="Encrypt", in_flight=16))
    ]
    (_DOCS / "PERFORMANCE.md").write_text("".join(_parts(results, picture=bool(shown))).rstrip() + "\n")
    if shown:
        title = "Encrypt (v2), SoftHSM, 16 requests in flight: answered in a second"
        (_DOCS / "performance.svg").write_text(bars(title, shown))


def _parts(results: Results, *, picture: bool) -> Iterator[str]:
    yield _HEAD.format(machine=results.machine)
    if picture:
        yield _PICTURE
    yield "\n## Goals\n\n"
    verdict = {True: "yes", False: "**no**", None: "not measured"}
    told = [[goal.what, goal.goal, goal.measured, verdict[goal.reached]] for goal in goals(results)]
    yield _table(["Goal", "Wanted", "Measured", "Reached"], told)
    if results.notes:
        yield "\n" + "".join(f"- {note}.\n" for note in dict.fromkeys(results.notes))
    for group, title in (
        ("side by side", "Side by side"),
        ("keys", "Few keys and many"),
        ("schemes", "AES-GCM, and AES-CBC with HMAC"),
        ("latency", "A token that takes its time"),
        ("jwt", "Service account tokens"),
    ):
        rows = [row for row in results.rows if row.group == group]
        if rows:
            yield f"\n## {title}\n\n"
            yield _rows(rows, results)
    yield sizing.part(results)
    yield "\n" + _TRIED.read_text()


def _rows(rows: Sequence[Row], results: Results) -> str:
    head = [
        "API",
        "Method",
        "In flight",
        "Server",
        "Keys",
        "Token",
        "Requests/s",
        "kmsd is",
        "p50",
        "p95",
        "p99",
        "max",
        "CPU",
    ]
    lines = []
    for row in rows:
        case = row.case
        ours = results.find(
            group=row.group,
            server=KMSD,
            **{name: getattr(case, name) for name in ("api", "method", "in_flight", "keys", "latency", "scheme")},
        )
        beside = ratio(ours, row) if ours is not row else None
        token = f"{case.latency * 1000:.0f} ms" if case.latency else case.scheme
        what = [case.api, case.method, str(case.in_flight), case.server, f"{case.keys:,}", token]
        times = [f"{row.median(name):.2f}" for name in ("p50", "p95", "p99", "most")]
        lines.append([*what, f"{row.median('rate'):,.0f}", str(beside or ""), *times, f"{row.median('cpu'):.0f}"])
    return (
        _table(head, lines)
        + "\nTimes in ms, CPU in microseconds a request; *kmsd is*: requests of kmsd (h2corn) beside these.\n"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
