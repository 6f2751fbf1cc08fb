"""What is asked of kmsd: rates and latency by API and method, errors by code, use by key, and every call as it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Filter, Key, Request, StatsFrame, escape
from kmstui import plots, styles, traffic
from kmstui.commands import ScreenCommand
from kmstui.dialogs.record import RecordDialog
from kmstui.memoize import once
from kmstui.messages import Choose
from kmstui.screens.page import PLOTTED, Page, tail_note, tail_waiting, waiting
from kmstui.styles import Colour
from kmstui.text import age, clock, compact, milliseconds, percent, rate, short_hash
from kmstui.traffic import HISTORY, Traffic
from kmstui.view import Moment, Numbered, Reading, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Fact
from kmstui.widgets.ledger import Cell, Ledger, LedgerHead
from kmstui.widgets.listing import Listing
from kmstui.widgets.panel import Panel
from kmstui.widgets.plot import LatencyPlot, Plot, RequestsPlot
from kmstui.widgets.steady import set_subtitle
from kmstui.widgets.table import Table

_SPARK = 24
"""Columns of a key's own plot."""

REQUESTS = ItemKind[Numbered[Request]](
    "Requests",
    (
        Column("time", lambda row, _: _time(row.item), fixed=12),
        Column(
            "",
            lambda row, _: styles.outcome(row.item.code).glyph,
            fixed=1,
            colour=lambda row: styles.outcome(row.item.code).colour,
        ),
        Column("api", lambda row, _: row.item.api, fixed=7, order=lambda row: row.item.api),
        Column("method", lambda row, _: row.item.method, fixed=8, order=lambda row: row.item.method),
        Column(
            "ms",
            lambda row, _: f"{row.item.latency_ms:.2f}",
            fixed=8,
            right=True,
            order=lambda row: row.item.latency_ms,
            falling=True,
        ),
        Column(
            "key", lambda row, _: short_hash(row.item.key_id_sha256), fixed=8, order=lambda row: row.item.key_id_sha256
        ),
        Column(
            "code",
            lambda row, _: row.item.code,
            least=8,
            colour=lambda row: Colour.PLAIN if row.item.code == "OK" else Colour.BAD,
            order=lambda row: row.item.code,
        ),
        Column("reason", lambda row, _: row.item.reason, least=9, optional=True),
        Column("uid", lambda row, _: row.item.uid or "-", least=9, optional=True),
    ),
    lambda row: str(row.number),
    lambda row: (
        row.item.api,
        row.item.method,
        row.item.code,
        row.item.key_id_sha256,
        escape(row.item.uid),
        escape(row.item.reason),
    ),
    lambda row: row.item.uid,
    "uid",
    data=lambda row: row.item,
    tail=True,
    command=("requests",),
)


class TrafficScreen(Page):
    NAME = "Traffic"
    WANTS = frozenset({Want.REQUESTS, Want.KEYS})
    HELP = (
        "Shows what is asked of this kmsd. The plots begin with its history of 15 minutes; counts are since it "
        "started, rates are of the last seconds. The requests below are all calls of the KMS APIs as they end, the "
        "newest last; they are followed while the cursor is on the last one."
    )
    SCREEN_COMMANDS = (
        ScreenCommand(
            "errors", "e", "Only errors", "List only requests that failed, or all; Esc lists all.", changes=False
        ),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *(command.binding for command in SCREEN_COMMANDS),
        Binding("v", "turn", "Next panel"),
        *PLOTTED,
    ]

    def data(self) -> Iterable[Widget]:
        with Container(id="traffic-plots"):
            yield RequestsPlot("Requests/s", id="traffic-requests")
            yield LatencyPlot("Latency", id="traffic-latency")
        with Container(id="ledgers"):
            yield MethodsPanel("Methods")
            yield CodesPanel("Errors")
            yield KeysPanel("Keys")
            yield OperationsPanel("Operations of the token")
        yield Listing(REQUESTS, id="requests-tail")

    def on_mount(self) -> None:
        self._turn_to(0)

    def _turn_to(self, first: int) -> None:
        """first: of the ledgers to be shown; where two have room side by side, the one after it is the other."""
        panels = list(self.query(Ledger))
        for at, panel in enumerate(panels):
            panel.set_class(at == first, "-turned")
            panel.set_class(at == (first + 1) % len(panels), "-second")

    def show_data(self, view: View, moment: Moment) -> None:
        panels: Iterable[Panel] = (*self.query(Plot), *self.query(Ledger))
        for panel in panels:
            if panel.display:
                panel.show(view, moment)
        narrowed = _narrowed(view)
        tail = view.chosen if narrowed else view.requests
        self._listing.show(
            tail.items,
            moment,
            empty=tail_waiting(
                view, tail, "none of the last calls; new ones are shown" if narrowed else "no calls yet"
            ),
            note=tail_note(view, tail, moment),
            narrowed=narrowed,
        )

    def choose(self, wanted: Filter) -> None:
        """Show the requests of one sort, or all."""
        self._listing.seek("")
        self.post_message(Choose(wanted))

    def begin(self, name: str) -> None:
        if self.view is not None:
            wanted = self.view.wanted
            self.post_message(Choose(replace(wanted, failed=not wanted.failed, method="", code="")))

    def on_click(self, event: events.Click) -> None:
        if isinstance(event.widget, CodesPanel):
            self.post_message(Choose(Filter(failed=True)))

    @on(Listing.Widened)
    def _widened(self, event: Listing.Widened) -> None:
        event.stop()
        self.choose(Filter())

    @property
    def _listing(self) -> Listing[Numbered[Request]]:
        found: Listing[Numbered[Request]] = self.query_one("#requests-tail", Listing)
        return found

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # What lies under a panel that has all the room does not turn.
        return self.zoomed is None if action == "turn" else super().check_action(action, parameters)

    def action_turn(self) -> None:
        panels = list(self.query(Ledger))
        first = next((at for at, panel in enumerate(panels) if panel.has_class("-turned")), 0)
        together = 2 if self.has_class("-wide") else 1
        self._turn_to((first + together) // together * together % len(panels))
        self.call_after_refresh(self._show_again)

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        request: Request = event.item.item
        self.app.push_screen(RecordDialog(f"{request.api} {request.method}", tuple(_facts(request)), request))


class MethodsPanel(Ledger):
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
    """By key id."""
    return {key.key_id: key.label for key in keys if key.state != "companion"}


def use_spark(known: Traffic, key_id: str, columns: int) -> str:
    """A key's use as far as it was watched from here; empty if it was not used."""
    values = use_rates(known, key_id, columns)
    return plots.spark(values) if any(values) else ""


def use_rates(known: Traffic, key_id: str, columns: int, span: int = HISTORY) -> plots.Values:
    """A key's uses per second over the last `span` seconds, as far as they were watched from here."""
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
        if frame is not None:
            use = frame.sessions
            queued = f", {use.queued} queued" if use.queued else ""
            text = f"{plots.meter(use.busy, use.open, 8)} {use.busy} of {use.open} sessions busy{queued}"
            set_subtitle(self, Content(text))
        super().show(view, moment)

    def empty(self, view: View) -> str:
        return _nothing(view, "nothing was asked of the token yet")


def _nothing(view: View, none: str) -> str:
    return waiting(view, Reading(view.traffic.frame, error=view.traffic.error), none)


def _narrowed(view: View) -> str:
    """Which requests are listed, in words; empty if all are."""
    parts = [f"only {view.wanted.code}"] if view.wanted.code else ["only errors"] if view.wanted.failed else []
    parts += [f"only {view.wanted.method}"] if view.wanted.method else []
    parts += [f"only key {short_hash(view.wanted.key_id_sha256)}"] if view.wanted.key_id_sha256 else []
    return ", ".join(parts)


def _time(request: Request) -> str:
    if request.time is None:
        return "-"
    return f"{clock(request.time)}.{request.time.microsecond // 1000:03d}"


def _facts(request: Request) -> Iterator[Fact]:
    look = styles.outcome(request.code)
    yield Fact("time", request.time.isoformat(timespec="milliseconds") if request.time is not None else "-")
    yield Fact("call", escape(f"{request.api} {request.method}"))
    yield Fact("outcome", escape(str(look)), look.colour)
    if request.reason:
        yield Fact("reason", escape(request.reason))
    yield Fact("took", f"{request.latency_ms:.3f} ms")
    yield Fact("uid", escape(request.uid) or "-")
    yield Fact("key sha256", escape(request.key_id_sha256) or "-")
