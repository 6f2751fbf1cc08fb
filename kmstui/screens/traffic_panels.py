"""The panels of the traffic screen that count: calls by method, errors by code, use by key, operations of the token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from textual.content import Content

from kmsd.client import Key, StatsFrame, escape
from kmstui import plots, traffic
from kmstui.memoize import once
from kmstui.screens.page import waiting
from kmstui.styles import Colour
from kmstui.text import age, compact, milliseconds, percent, rate, short_hash
from kmstui.traffic import HISTORY, Traffic
from kmstui.view import Moment, Reading, View
from kmstui.widgets.ledger import Cell, Ledger, LedgerHead
from kmstui.widgets.steady import set_subtitle

_SPARK = 24
"""Columns of a key's own plot."""


class MethodsPanel(Ledger):
    """A ledger of calls by method."""

    heads = (
        LedgerHead("method", least=10),
        LedgerHead("/s", right=True),
        LedgerHead("p50", right=True),
        LedgerHead("p90", right=True, optional=True),
        LedgerHead("p99", right=True),
        LedgerHead("max", right=True, optional=True),
        LedgerHead("calls", right=True),
        LedgerHead("errors", right=True),
    )

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        frame = view.traffic.frame
        return list(_methods(frame, view.traffic)) if frame is not None else []

    def show(self, view: View, moment: Moment) -> None:
        frame = view.traffic.frame
        if frame is not None:
            off = f", quantiles ± {100 * frame.quantile_error:.0f} %" if frame.quantile_error else ""
            set_subtitle(self, Content(f"{frame.in_flight} in flight{off}"))
        super().show(view, moment)

    def empty(self, view: View) -> str:
        return _nothing(view, "no calls yet")


def _methods(frame: StatsFrame, known: Traffic) -> Iterator[tuple[Cell, ...]]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    wrong: dict[tuple[str, str], int] = defaultdict(int)
    rates: dict[tuple[str, str], float] = defaultdict(float)
    for each in frame.calls:
        counts[each.api, each.method] += each.count
        if each.code != "OK":
            wrong[each.api, each.method] += each.count
    for (api, method, _), number in traffic.call_rates(known).items():
        rates[api, method] += number
    latencies = {(each.api, each.method): each for each in frame.latencies}
    # kube-apiserver's calls first, kmsctl's and ours after them.
    for name, calls in sorted(counts.items(), key=lambda item: (item[0][0] == "admin", -item[1])):
        timing = latencies.get(name)
        times = (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.max_ms) if timing is not None else (0.0,) * 4
        errors = wrong[name]
        yield (
            Cell(escape(" ".join(name))),
            Cell(rate(rates[name]) if rates else "-"),
            *(Cell(milliseconds(each)) for each in times),
            Cell(compact(calls)),
            Cell(percent(errors, calls) if errors else "-", Colour.BAD if errors else Colour.PLAIN),
        )


class KeysPanel(Ledger):
    """A ledger of use by key."""

    heads = (
        LedgerHead("hash"),
        LedgerHead("label", least=10),
        LedgerHead("/s", right=True),
        LedgerHead("encrypts", right=True),
        LedgerHead("decrypts", right=True),
        LedgerHead("last", right=True),
        LedgerHead("last 15 min", optional=True),
    )

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        frame = view.traffic.frame
        if frame is None:
            return []
        labels = _labels(view.keys.value or ())
        rates = traffic.key_rates(view.traffic)
        ordered = sorted(frame.keys, key=lambda each: (-rates.get(each.key_id, 0.0), -each.encrypts - each.decrypts))
        return [
            (
                Cell(short_hash(each.key_id_sha256)),
                Cell(escape(labels.get(each.key_id, "-"))),
                Cell(rate(rates.get(each.key_id, 0.0)) if rates else "-"),
                Cell(compact(each.encrypts)),
                Cell(compact(each.decrypts)),
                Cell(age(each.last_used, moment.wall)),
                Cell(use_spark(view.traffic, each.key_id, _SPARK), Colour.ACCENT),
            )
            for each in ordered
        ]

    def empty(self, view: View) -> str:
        return _nothing(view, "no key was used yet")


@once
def _labels(keys: Sequence[Key]) -> Mapping[str, str]:
    """Return the labels by key id."""
    return {key.key_id: key.label for key in keys if key.state != "companion"}


def use_spark(known: Traffic, key_id: str, columns: int) -> str:
    """Return a key's use as far as it was watched from here; empty if it was not used."""
    values = use_rates(known, key_id, columns)
    return plots.spark(values) if any(values) else ""


def use_rates(known: Traffic, key_id: str, columns: int, span: int = HISTORY) -> plots.Values:
    """Return a key's uses per second over the last `span` seconds, as far as they were watched from here."""
    if columns > span:
        return plots.stretched(use_rates(known, key_id, span, span), columns)
    frame = known.frame
    if frame is None or frame.time is None or columns <= 0:
        return [None] * max(0, columns)
    size, end = span / columns, traffic.stamp(frame.time)
    sums, lengths = [0.0] * columns, [0] * columns
    for back in range(min(span, end - known.watched)):
        lengths[columns - 1 - int(back / size)] += 1
    for use in known.uses.get(key_id, ()):
        # Spread over its seconds: frames and columns do not begin together.
        for second in range(use.span):
            at = columns - 1 - int((end - use.time + second) / size)
            if 0 <= at < columns:
                sums[at] += (use.encrypts + use.decrypts) / use.span
    return [each / length if length else None for each, length in zip(sums, lengths, strict=True)]


class CodesPanel(Ledger):
    """A ledger of errors by code."""

    heads = (LedgerHead("code"), LedgerHead("method"), LedgerHead("/s", right=True), LedgerHead("calls", right=True))

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        frame = view.traffic.frame
        if frame is None:
            return []
        rates = traffic.call_rates(view.traffic)
        wrong = sorted((each for each in frame.calls if each.code != "OK" and each.count), key=lambda each: -each.count)
        return [
            (
                Cell(f"✕ {escape(each.code)}", Colour.BAD),
                Cell(escape(f"{each.api} {each.method}")),
                Cell(rate(rates.get((each.api, each.method, each.code), 0.0)) if rates else "-"),
                Cell(compact(each.count)),
            )
            for each in wrong
        ]

    def empty(self, view: View) -> str:
        return _nothing(view, "● no call has failed since kmsd started")


class OperationsPanel(Ledger):
    """A ledger of operations of the token."""

    heads = (
        LedgerHead("operation"),
        LedgerHead("/s", right=True),
        LedgerHead("p50", right=True),
        LedgerHead("p99", right=True),
        LedgerHead("max", right=True, optional=True),
        LedgerHead("calls", right=True),
    )

    def rows(self, view: View, moment: Moment) -> Sequence[tuple[Cell, ...]]:
        frame = view.traffic.frame
        if frame is None:
            return []
        rates = traffic.operation_rates(view.traffic)
        return [
            (
                Cell(escape(each.method)),
                Cell(rate(rates.get(each.method, 0.0)) if rates else "-"),
                Cell(milliseconds(each.p50_ms)),
                Cell(milliseconds(each.p99_ms)),
                Cell(milliseconds(each.max_ms)),
                Cell(compact(each.count)),
            )
            for each in sorted(frame.operations, key=lambda each: -each.count)
        ]

    def show(self, view: View, moment: Moment) -> None:
        frame = view.traffic.frame
        if frame is not None and not view.upstreams:
            use = frame.sessions
            queued = f", {use.queued} queued" if use.queued else ""
            text = f"{plots.meter(use.busy, use.open, 8)} {use.busy} of {use.open} sessions busy{queued}"
            set_subtitle(self, Content(text))
        super().show(view, moment)

    def empty(self, view: View) -> str:
        if view.upstreams:
            return "a proxy has no token: 2 shows its key managers"
        return _nothing(view, "nothing was asked of the token yet")


def _nothing(view: View, none: str) -> str:
    return waiting(view, Reading(view.traffic.frame, error=view.traffic.error), none)
