"""The traffic that is asked of kmsd: rates and latency by API and method, errors by code, use by key, and every call as
it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget

from kmsd.client import Filter, Request, escape
from kmstui import styles
from kmstui.commands import ScreenCommand
from kmstui.dialogs.record import RecordDialog
from kmstui.messages import Choose
from kmstui.screens.page import PLOTTED, Page, tail_note, tail_waiting
from kmstui.screens.traffic_panels import CodesPanel, KeysPanel, MethodsPanel, OperationsPanel
from kmstui.styles import Colour
from kmstui.text import clock, short_hash
from kmstui.view import Moment, Numbered, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Fact
from kmstui.widgets.ledger import Ledger
from kmstui.widgets.listing import Listing
from kmstui.widgets.panel import Panel
from kmstui.widgets.plot import LatencyPlot, Plot, RequestsPlot
from kmstui.widgets.table import Table

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
        Column("tenant", lambda row, _: row.item.tenant, least=8, optional=True, order=lambda row: row.item.tenant),
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
        escape(row.item.tenant),
        escape(row.item.reason),
    ),
    lambda row: row.item.uid,
    "uid",
    data=lambda row: row.item,
    tail=True,
    command=("requests",),
)


class TrafficScreen(Page):
    """The screen of what is asked of kmsd."""

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
        """Turn to a ledger. first: of the ledgers to be shown; where two have room side by side, the one after it is
        the other."""
        panels = list(self.query(Ledger))
        for at, panel in enumerate(panels):
            panel.set_class(at == first, "-turned")
            panel.set_class(at == (first + 1) % len(panels), "-second")

    def show_data(self, view: View, moment: Moment) -> None:
        panels: Iterable[Panel] = (*self.query(Plot), *self.query(Ledger))
        # What is asked of the token is asked for all.
        counted = replace(view, traffic=view.tenant_traffic) if view.wanted.tenant else view
        for panel in panels:
            if panel.display:
                panel.show(view if isinstance(panel, OperationsPanel) else counted, moment)
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


def _narrowed(view: View) -> str:
    """Return which requests are listed, in words; empty if all are."""
    parts = [f"only {view.wanted.code}"] if view.wanted.code else ["only errors"] if view.wanted.failed else []
    parts += [f"only {view.wanted.method}"] if view.wanted.method else []
    parts += [f"only key {short_hash(view.wanted.key_id_sha256)}"] if view.wanted.key_id_sha256 else []
    parts += [f"only tenant {escape(view.wanted.tenant)}"] if view.wanted.tenant else []
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
    if request.tenant:
        yield Fact("tenant", escape(request.tenant))
    yield Fact("uid", escape(request.uid) or "-")
    yield Fact("key sha256", escape(request.key_id_sha256) or "-")
