"""The tenants of a key manager: how each is, with which key, how much it asks, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from textual import on
from textual.containers import Container
from textual.widget import Widget

from kmsd.client import Filter, Key, TenantStatus, escape
from kmstui import styles, tenants
from kmstui.action import ActionOutcome
from kmstui.dialogs.rotation import RotateDialog
from kmstui.dialogs.tenant import TENANT_COMMANDS, TenantDialog, tenant_facts
from kmstui.messages import ShowKey, ShowRequests, ShowRotation
from kmstui.screens.names import TENANTS, absent
from kmstui.screens.page import Page, note, waiting
from kmstui.text import count, milliseconds, rate, short_hash
from kmstui.view import Moment, View, Want
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Detail
from kmstui.widgets.listing import Listing
from kmstui.widgets.table import Table

TENANT_ROWS = ItemKind[TenantStatus](
    "Tenants",
    (
        Column(
            "state",
            lambda each, _: str(styles.serving(each.state)),
            fixed=10,
            colour=lambda each: styles.serving(each.state).colour,
            order=tenants.order,
        ),
        Column("tenant", lambda each, _: each.name, least=10, order=lambda each: each.name),
        Column("label", lambda each, _: each.write_label, least=8, order=lambda each: each.write_label),
        Column("key", lambda each, _: _digest(each.write_key), fixed=8, order=lambda each: _digest(each.write_key)),
        Column(
            "req/s",
            lambda each, _: rate(each.requests_per_second),
            fixed=6,
            right=True,
            order=lambda each: each.requests_per_second,
            falling=True,
        ),
        Column(
            "p99",
            lambda each, _: milliseconds(each.p99_ms),
            fixed=7,
            right=True,
            order=lambda each: each.p99_ms,
            falling=True,
        ),
        Column(
            "now",
            lambda each, _: count(each.in_flight),
            fixed=4,
            right=True,
            optional=True,
            order=lambda each: each.in_flight,
            falling=True,
        ),
        Column("followed", lambda each, moment: str(tenants.followed(each, moment.wall)), fixed=8),
        Column(
            "ends",
            lambda each, moment: tenants.ends(each, moment.wall)[0],
            fixed=6,
            right=True,
            order=lambda each: each.first_end.timestamp() if each.first_end is not None else float("inf"),
        ),
        Column(
            "failed",
            lambda each, _: count(each.errors) if each.errors else "-",
            fixed=7,
            right=True,
            optional=True,
            order=lambda each: each.errors,
            falling=True,
        ),
        Column("problem", lambda each, _: tenants.why(each), least=16, optional=True),
    ),
    lambda each: each.name,
    lambda each: (
        escape(each.name),
        escape(each.write_label),
        styles.serving(each.state).word,
        each.write_key.key_id_sha256 if each.write_key is not None else "",
        escape(each.write_key.key_id) if each.write_key is not None else "",
        *(escape(problem.message) for problem in each.problems),
    ),
    lambda each: each.name,
    "name",
    order=("state", False),
    command=("tenants",),
)


class TenantsScreen(Page):
    """The screen of the tenants."""

    NAME = TENANTS
    WANTS = frozenset({Want.CALLERS})
    HELP = (
        "Shows the tenants of this key manager, those that are not served first, then those with a problem. Requests "
        "per second and p99 are of the last ten seconds, p99 of the worst of them; now: calls under way. Followed: "
        "whether kube-apiserver encrypts with the present key, as the timeline of a rotation says it. Ends: when the "
        "first certificate of its callers does. Enter shows one, with who calls for it."
    )
    SCREEN_COMMANDS = TENANT_COMMANDS
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        with Container(id="beside"):
            yield Listing(TENANT_ROWS, id="tenant-rows")
            yield Detail()

    def show_data(self, view: View, moment: Moment) -> None:
        status = view.status.value
        found = status.tenants if status is not None else ()
        empty = waiting(view, view.status, absent(TENANTS, view))
        said = note(view, view.status, moment) or (tenants.tally(found)[1] if found else "")
        self._listing.show(found, moment, empty=empty, note=said)
        self.moved(view)

    def moved(self, view: View) -> None:
        tenant = self.chosen
        facts = tuple(tenant_facts(tenant, self.moment)) if tenant is not None else ()
        self.query_one(Detail).show(escape(tenant.name) if tenant is not None else "", facts)

    @property
    def chosen(self) -> TenantStatus | None:
        return self._listing.current

    @property
    def _listing(self) -> Listing[TenantStatus]:
        found: Listing[TenantStatus] = self.query_one("#tenant-rows", Listing)
        return found

    def refusal(self, name: str) -> str:
        tenant = self.chosen
        if tenant is None:
            return "no tenant is chosen"
        if name != "requests" and tenant.write_key is None:
            return f"it has no write key: kmsctl keygen {escape(tenant.write_label)} makes one, or 3 and n"
        return ""

    def begin(self, name: str) -> None:
        view, tenant = self.view, self.chosen
        status = view.status.value if view is not None else None
        if view is None or status is None or tenant is None:
            return
        match name:
            case "requests":
                self.post_message(ShowRequests(Filter(tenant=tenant.name)))
            case "key" if tenant.write_key is not None:
                self.post_message(ShowKey(tenant.write_key))
            case "rotation":
                self.post_message(ShowRotation(tenant.name))
            case "rotate":
                names = [token.name for token in sorted(status.tokens, key=lambda token: not token.write)]
                dialog = RotateDialog(view.target, tenant.write_label, tenant.write_key, names)

                def rotated(outcome: ActionOutcome | None) -> None:
                    if outcome is not None:
                        self.post_message(ShowRotation(tenant.name))

                self.app.push_screen(dialog, rotated)

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        def chosen(command: str | None) -> None:
            if command:
                self.action_do(command)

        tenant: TenantStatus = event.item
        if self.view is not None:
            self.app.push_screen(TenantDialog(tenant.name, self.view, self.moment), chosen)


def _digest(key: Key | None) -> str:
    return short_hash(key.key_id_sha256) if key is not None else "-"
