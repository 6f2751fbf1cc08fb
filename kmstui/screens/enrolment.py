"""The screen of enrolment: requests that wait, tokens, certificates by their end, and the CA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from textual import on
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from kmsd.client import Ca, CaCertificate, EnrolmentRequest, EnrolmentToken, escape
from kmstui import enrolment
from kmstui.commands import ScreenCommand
from kmstui.dialogs.enrolment import (
    ApproveDialog,
    DenyDialog,
    RevokeCertificateDialog,
    RevokeTokenDialog,
    TokenDialog,
)
from kmstui.dialogs.record import RecordDialog
from kmstui.enrolment import Certificate
from kmstui.screens.enrolment_rows import (
    CERTIFICATES,
    REQUESTS,
    TOKENS,
    certificate_facts,
    request_facts,
    token_facts,
)
from kmstui.screens.names import ENROLMENT, absent
from kmstui.screens.page import Page, note, waiting
from kmstui.styles import WARN, Colour
from kmstui.text import absolute, ago, duration, hang
from kmstui.view import Moment, Reading, View, Want
from kmstui.widgets.listing import Listing
from kmstui.widgets.steady import Said
from kmstui.widgets.table import Table

_NO_EST = "this kmsd enrols no nodes: est.listen is not set"
_NO_CA = "this kmsd is no CA: ca.enabled is not set"
_AGAIN = 60
"""Seconds after which it is found out anew which certificates have ended."""


class EnrolmentScreen(Page):
    """The screen of who gets a certificate of this key manager."""

    NAME = ENROLMENT
    WANTS = frozenset({Want.CONFIG, Want.CA, Want.ENROLMENT_TOKENS, Want.ENROLMENT_REQUESTS})
    HELP = (
        "Shows who gets a certificate here: requests that came without a token (est.approval = manual), enrolment "
        "tokens, and the certificates of nodes, those that end first at the top. Renewed: the node has a newer one; "
        "overdue: it should have by now. Tab goes from table to table, Enter shows a row in full, R revokes the chosen "
        "token or certificate. The text of a token is shown once, when it is made."
    )
    SCREEN_COMMANDS = (
        ScreenCommand("approve", "a", "Approve", "Let the node of the chosen request have its certificate."),
        ScreenCommand("deny", "d", "Deny", "Refuse the chosen request; the node is told the reason."),
        ScreenCommand("token", "n", "New token", "Make a token with which a node gets its first certificate."),
        ScreenCommand("revoke", "R", "Revoke", "Revoke the chosen token or certificate, for good."),
    )
    BINDINGS = [command.binding for command in SCREEN_COMMANDS]  # noqa: RUF012 - as Textual has it

    def data(self) -> Iterable[Widget]:
        yield Said(id="enrolment-head")
        with Container(id="enrolment-above"):
            yield Listing(REQUESTS, id="enrolment-requests")
            yield Listing(TOKENS, id="enrolment-tokens")
        yield Listing(CERTIFICATES, id="certificates")

    def show_data(self, view: View, moment: Moment) -> None:
        self.query_one("#enrolment-head", Said).say(Content("\n").join(_head(view, moment, self.size.width - 2)))
        known, why = view.config.value is not None, absent(ENROLMENT, view)
        no_est = why or (_NO_EST if known and not enrolment.enrols(view) else "")
        no_ca = why or (_NO_CA if known and not enrolment.has_ca(view) else "")
        empty = "no requests wait" if enrolment.approves(view) else "none: nodes need a token (est.approval)"
        asked, made = view.enrolment_requests, view.enrolment_tokens
        self._show("#enrolment-requests", asked, asked.value or (), no_est, empty)
        self._show("#enrolment-tokens", made, made.value or (), no_est, "there are no tokens: n makes one")
        issued = view.ca.value.issued if view.ca.value is not None else ()
        rows = self._certificates(issued, moment)
        more = f"the last {len(issued):,} that were issued" if view.ca.value is not None and view.ca.value.more else ""
        self._show("#certificates", view.ca, rows, no_ca, "none was issued yet", more)

    def _show(
        self, which: str, reading: Reading[Any], rows: tuple[Any, ...], missing: str, empty: str, more: str = ""
    ) -> None:
        """Show a table. missing: why there is none; empty if there is. more: what its title says."""
        view = self.view
        if view is None:
            return
        listing = self.query_one(which, Listing)
        listing.set_class(reading.error is not None, "-stale")
        said = missing or waiting(view, reading, empty)
        listing.show(() if missing else rows, self.moment, empty=said, note=note(view, reading, self.moment) or more)

    _sorted: tuple[tuple[CaCertificate, ...], int, tuple[Certificate, ...]] = ((), 0, ())

    def _certificates(self, issued: tuple[CaCertificate, ...], moment: Moment) -> tuple[Certificate, ...]:
        """Return the certificates as they are now; the same object as long as nothing has changed."""
        minute = int(moment.wall.timestamp() / _AGAIN)
        if self._sorted[0] is not issued or self._sorted[1] != minute:
            self._sorted = (issued, minute, enrolment.certificates(issued, moment.wall))
        return self._sorted[2]

    # What can be done here.

    def _chosen(self, which: str) -> Any:
        return self.query_one(which, Listing).current

    @property
    def _subject(self) -> Any:
        """Return the row that has the focus: a request, a token or a certificate; None if none has."""
        focused = self.focused
        around = focused.ancestors_with_self if focused is not None else ()
        return next((each.current for each in around if isinstance(each, Listing)), None)

    def refusal(self, name: str) -> str:
        view = self.view
        if view is None:
            return ""
        if name == "token":
            status = view.status.value
            if not enrolment.enrols(view):
                return _NO_EST
            return "" if status is not None and status.tenants else "this kmsd has no tenants, to which nodes belong"
        if name == "revoke":
            return _why_not_revoke(self._subject)
        request: EnrolmentRequest | None = self._chosen("#enrolment-requests")
        if request is None:
            return "there is no request"
        return "" if request.state == "waiting" else f"it is {request.state} already"

    def begin(self, name: str) -> None:
        view = self.view
        status = view.status.value if view is not None else None
        if view is None or status is None:
            return
        tenants = [each.name for each in status.tenants]
        match name:
            case "token":
                self.app.push_screen(TokenDialog(view.target, tenants))
            case "approve":
                self.app.push_screen(ApproveDialog(view.target, self._chosen("#enrolment-requests"), tenants))
            case "deny":
                self.app.push_screen(DenyDialog(view.target, self._chosen("#enrolment-requests")))
            case "revoke":
                subject = self._subject
                if isinstance(subject, EnrolmentToken):
                    self.app.push_screen(RevokeTokenDialog(view.target, subject))
                elif isinstance(subject, Certificate):
                    self.app.push_screen(RevokeCertificateDialog(view.target, subject.issued))

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        item = event.item
        if isinstance(item, EnrolmentRequest):
            title, facts = f"Request of {escape(item.subject)}", tuple(request_facts(item, self.moment))
            self.app.push_screen(RecordDialog(title, facts, item))
        elif isinstance(item, EnrolmentToken):
            title, facts = f"Token of {escape(item.node)}", tuple(token_facts(item, self.moment))
            self.app.push_screen(RecordDialog(title, facts, item))
        elif isinstance(item, Certificate):
            title, facts = f"Certificate of {escape(item.issued.node)}", tuple(certificate_facts(item, self.moment))
            self.app.push_screen(RecordDialog(title, facts, item.issued))


def _why_not_revoke(subject: object) -> str:
    match subject:
        case EnrolmentToken():
            return "" if subject.usable else f"it is {enrolment.token(subject).word} already"
        case Certificate():
            return "" if subject.state not in ("ended", "revoked") else f"it is {subject.state} already"
        case EnrolmentRequest():
            return "a request is denied (d); Tab leads to tokens and certificates"
    return "no token or certificate is chosen"


def _head(view: View, moment: Moment, columns: int) -> Iterator[Content]:
    """Yield the CA in a line, and what is wrong with it or the store."""
    found = view.ca.value
    if found is not None:
        yield _ca_line(found, moment)
        if found.state == "none":
            yield Content.styled("→ `kmsctl ca init` makes its key and certificate", "dim")
        elif found.state == "waiting" or found.following is not None:
            yield Content.styled("→ have the request signed, then: kmsctl ca import CERTIFICATE", "dim")
        if found.crl_signed is not None:
            listed = f"{found.crl_revoked:,} revoked, signed {ago(found.crl_signed, moment.wall)}"
            yield Content.assemble(("CRL ", "dim"), f"{listed}, next by {absolute(found.crl_next)}")
    elif enrolment.has_ca(view):
        yield Content.styled("CA  waiting for the first answer", "dim")
    if not view.lost:
        yield from _troubles(view, columns)


def _troubles(view: View, columns: int) -> Iterator[Content]:
    """Yield what keeps kmsd from telling, and what that means."""
    store = view.enrolment_requests.error or view.enrolment_tokens.error
    if store is not None and enrolment.enrols(view):
        error, means = store, "Keys are served all the same; nothing is issued, and nodes are told when to come again."
    elif view.ca.error is not None and enrolment.has_ca(view):
        error, means = view.ca.error, "Nothing is issued meanwhile; the certificates that are out go on working."
    else:
        return
    hint = f" → {escape(error.hint)}" if error.hint else ""
    yield Content.assemble((f"{WARN} ", f"${Colour.WARN}"), hang(f"{escape(error.message)}{hint}", columns, 2))
    yield Content.styled(f"  {hang(means, columns, 2)}", "dim")


def _ca_line(found: Ca, moment: Moment) -> Content:
    own = found.certificate
    if own is None:
        said = "there is none yet" if found.state == "none" else "its key waits for a certificate"
        return Content.assemble(("CA  ", "dim"), (f"{WARN} {said}", f"${Colour.WARN}"))
    left = (own.not_after - moment.wall).total_seconds() if own.not_after is not None else 0.0
    signed = "" if own.issuer == own.subject else f", signed by {escape(own.issuer)}"
    following = "; a key that is to follow waits for its certificate" if found.following is not None else ""
    chain = f", chain of {len(found.chain)} certificates" if len(found.chain) > 1 else ""
    return Content.assemble(
        ("CA  ", "dim"),
        (escape(own.subject), "bold"),
        f", ends in {duration(left)}, {absolute(own.not_after)}{signed}{chain}",
        (following, f"${Colour.WARN}"),
    )
