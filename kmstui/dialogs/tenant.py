"""One tenant in full: what is wrong, its key, how far kube-apiserver has followed, and who calls for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from kmsd.client import Peer as Caller
from kmsd.client import TenantStatus, escape
from kmstui import styles, tenants
from kmstui.commands import ScreenCommand
from kmstui.dialogs.record import RecordDialog
from kmstui.messages import CallersWanted
from kmstui.styles import Colour
from kmstui.text import absolute, age, ago, count, duration, milliseconds, percent, rate, short_hash
from kmstui.view import Moment, Reading, View
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail, Fact
from kmstui.widgets.listing import Listing
from kmstui.widgets.table import Table

CALLERS = ItemKind[Caller](
    "Callers",
    (
        Column("name", lambda each, _: each.name or "(none)", least=16, order=lambda each: each.name),
        Column("address", lambda each, _: each.address, least=9, order=lambda each: each.address),
        Column(
            "last",
            lambda each, moment: age(each.last_seen, moment.wall),
            fixed=6,
            right=True,
            order=lambda each: each.last_seen.timestamp() if each.last_seen is not None else 0.0,
            falling=True,
        ),
        Column(
            "ends",
            lambda each, moment: _ends(each, moment),
            fixed=6,
            right=True,
            order=lambda each: each.not_after.timestamp() if each.not_after is not None else float("inf"),
        ),
        Column("TLS", lambda each, _: each.tls_version.removeprefix("TLSv"), fixed=4),
        Column("group", lambda each, _: each.group or "?", least=6, optional=True),
        Column("cipher", lambda each, _: each.cipher, least=10, optional=True),
        Column("serial", lambda each, _: each.serial, least=8, optional=True),
        Column("open", lambda each, _: str(each.connections), fixed=4, right=True, optional=True),
        Column("calls", lambda each, _: f"{each.calls:,}", right=True, optional=True, order=lambda each: each.calls),
    ),
    lambda each: f"{each.serial}\0{each.name}",
    lambda each: (escape(each.name), escape(each.address), each.serial, each.tls_version, each.cipher, each.group),
    lambda each: each.serial,
    "serial number",
    order=("last", True),
    command=("peers",),
)


TENANT_COMMANDS = (
    ScreenCommand("requests", "u", "Requests", "Show the requests of the chosen tenant.", changes=False),
    ScreenCommand("key", "K", "Key", "Go to the write key of the chosen tenant.", changes=False),
    ScreenCommand("rotation", "o", "Rotation", "Show the rotation of the chosen tenant's key.", changes=False),
    ScreenCommand("rotate", "R", "Rotate", "Make a new write key for the chosen tenant."),
)
"""The commands for a tenant, in the table of all and here."""


class TenantDialog(ModalScreen[str | None]):
    """A tenant in full, as it is now. name: of the tenant. Dismissed with the name of the command that is to be done,
    or None."""

    AUTO_FOCUS = "Table"
    HELP = (
        "Shows one tenant, and who called for it in the last day, by certificate. Enter shows a caller in full. The "
        "keys of the screen of the tenants work here, too."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close", show=False),
        Binding("question_mark", "app.help", "Help", show=False),
        *(Binding(each.key, f"leave('{each.name}')", each.title, show=False) for each in TENANT_COMMANDS),
    ]

    def __init__(self, name: str, view: View, moment: Moment) -> None:
        super().__init__()
        self._tenant = name
        self._view, self._moment = view, moment

    def compose(self) -> ComposeResult:
        with Vertical(id="tenant") as box:
            box.border_title = Content(f"Tenant {escape(self._tenant)}")
            keys = "  ".join(f"{each.key} {each.title.lower()}" for each in TENANT_COMMANDS)
            box.border_subtitle = Content(f"Esc closes  {keys}")
            yield Detail()
            yield Listing(CALLERS, id="callers")

    def on_mount(self) -> None:
        self.post_message(CallersWanted(self._tenant))
        self.show(self._view, self._moment)

    def show(self, view: View, moment: Moment) -> None:
        """Show a View."""
        self._view, self._moment = view, moment
        tenant = tenants.find(view, self._tenant)
        facts = tuple(tenant_facts(tenant, moment)) if tenant is not None else (_GONE,)
        self.query_one(Detail).show("", facts)
        self.query_one("#tenant").set_class(view.lost, "-stale")
        found: Reading[tuple[Caller, ...]] = view.callers.get(self._tenant, Reading())
        listing: Listing[Caller] = self.query_one("#callers", Listing)
        empty = "waiting for the answer"
        if found.value is not None:
            empty = "nobody called for it in the last 24 hours"
        elif found.error is not None:
            empty = f"cannot be read: {escape(found.error.message)}"
        listing.show(found.value or (), moment, empty=empty, note="in the last 24 hours")

    def action_leave(self, command: str) -> None:
        self.dismiss(command)

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        event.stop()
        caller: Caller = event.item
        self.app.push_screen(
            RecordDialog(escape(caller.name or caller.serial), tuple(caller_facts(caller, self._moment)), caller)
        )

    @on(Table.Moved)
    def _moved(self, event: Table.Moved) -> None:
        event.stop()


_GONE = Fact("", "there is no such tenant any more", Colour.WARN)


def tenant_facts(tenant: TenantStatus, moment: Moment) -> Iterator[Fact]:
    """Return a tenant as lines of names and values."""
    told = {problem.message for problem in tenant.problems}
    for problem in sorted(tenant.problems, key=lambda each: not each.fatal):
        look = styles.problem(problem)
        yield Fact(look.glyph, escape(problem.message), look.colour)
        if problem.hint:
            yield Fact("", f"→ {escape(problem.hint)}")
    if tenant.healthz != "ok" and tenant.healthz not in told:
        yield Fact(styles.BAD, escape(tenant.healthz), Colour.BAD)
        if tenant.hint:
            yield Fact("", f"→ {escape(tenant.hint)}")
    now, key, following = moment.wall, tenant.write_key, tenant.following
    if key is None:
        yield Fact("write key", f"none has the label {escape(tenant.write_label)}", Colour.BAD)
    else:
        yield Fact("write key", f"{escape(tenant.write_label)}, hash {short_hash(key.key_id_sha256)}")
        yield Fact("key id", escape(key.key_id))
    state = tenants.followed(tenant, now)
    before = f", after {short_hash(following.previous_key_id_sha256)}" if following.previous_key_id else ""
    since = f"; it is named since {absolute(following.since)}{before}" if following.since is not None else ""
    yield Fact("followed", f"{state.glyph} {state.text}{since}".strip(), state.colour)
    yield Fact("Status", _times(following.first_status, following.last_status, moment))
    yield Fact("Encrypt", _times(following.first_encrypt, following.last_encrypt, moment))
    pace = f"{rate(tenant.requests_per_second)}/s, p99 {milliseconds(tenant.p99_ms)}, {tenant.in_flight} under way"
    failed = f", {percent(tenant.errors, tenant.requests)} of them failed" if tenant.errors else ""
    yield Fact("requests", f"{pace}; {tenant.requests:,} since kmsd started{failed}")
    ends = tenants.ends(tenant, now)
    first = f"; {_ending(tenant.first_end, moment)}" if tenant.first_end is not None else ""
    yield Fact("callers", f"{count(tenant.peers)} in the last day{first}", ends[1])


def _times(first: datetime | None, last: datetime | None, moment: Moment) -> str:
    """Return when calls with the present key were first and last."""
    if first is None:
        return "none with this key yet"
    return f"with this key first {absolute(first)}, last {ago(last, moment.wall)}"


def _ending(end: datetime, moment: Moment) -> str:
    if end <= moment.wall:
        return f"the first certificate ended {ago(end, moment.wall)}, {absolute(end)}"
    return f"the first certificate ends in {duration((end - moment.wall).total_seconds())}, {absolute(end)}"


def caller_facts(caller: Caller, moment: Moment) -> Iterator[Fact]:
    """Return a caller as lines of names and values."""
    whose = f"tenant {escape(caller.tenant)}" if caller.tenant else "no tenant"
    yield Fact("name", escape(caller.name) or "none that is known")
    yield Fact("as", f"{whose}, {escape(caller.role)}")
    yield Fact("address", escape(caller.address))
    yield Fact("serial", escape(caller.serial))
    if caller.not_after is not None:
        colour = Colour.BAD if caller.not_after <= moment.wall else Colour.PLAIN
        yield Fact("ends", _ending(caller.not_after, moment).removeprefix("the first certificate "), colour)
    yield Fact("TLS", escape(f"{caller.tls_version}, {caller.cipher}, group {caller.group or 'not known'}"))
    yield Fact("seen", f"last {ago(caller.last_seen, moment.wall)}, {absolute(caller.last_seen)}")
    yield Fact("calls", f"{caller.calls:,} since kmsd started, {caller.connections} connections open")


def _ends(caller: Caller, moment: Moment) -> str:
    if caller.not_after is None:
        return "-"
    return age(moment.wall, caller.not_after) if caller.not_after > moment.wall else "ended"
