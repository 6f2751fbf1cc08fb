"""The dialogs for enrolment: approve and deny a request, make and revoke a token, revoke a certificate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Select, Static

from kmsd.client import CaCertificate, EnrolmentRequest, EnrolmentToken, escape
from kmsd.client.durations import parse_duration
from kmstui import enrolment, enrolment_actions, shell
from kmstui.action import Action, ActionOutcome, Done
from kmstui.dialogs.dialog import Dialog, field
from kmstui.dialogs.keys import warning
from kmstui.styles import Colour
from kmstui.text import absolute, hang
from kmstui.textual_compat import forget_copied

NODE_MOST = 253
"""Characters of a node's name."""
REASON_MOST = 255
_USES_MOST = 1000
_TTL = "1h"
_FEW = 20
"""Tenants among which one moves by j and k; among more they are typed."""
_REASONS = (
    ("unspecified", "unspecified"),
    ("keyCompromise: somebody else may have its key", "keyCompromise"),
    ("superseded: it has another one", "superseded"),
    ("cessationOfOperation: there is no such node any more", "cessationOfOperation"),
    ("affiliationChanged: the node is another tenant's now", "affiliationChanged"),
    ("privilegeWithdrawn", "privilegeWithdrawn"),
)


class ApproveDialog(Dialog):
    """A form that approves a request. tenants: names of those that there are."""

    HELP = (
        "Lets a node have the certificate that it asks for, with the names of the node and tenant given here. Anybody "
        "can ask for any name: compare the hash of the key with what the node has. There it is: openssl pkey -in "
        ".tls.key.new -pubout -outform DER | sha256sum, in the folder that --out of kmsctl enrol names."
    )

    def __init__(self, target: str, request: EnrolmentRequest, tenants: Sequence[str]) -> None:
        super().__init__(target, f"Approve {escape(request.subject) or 'a request'}", "Approve")
        self._request = request
        self._tenants = tenants

    def fields(self) -> Iterable[Widget]:
        yield _about_request(self._request)
        yield warning("anybody can ask for any name: compare the hash of the key with the node's")
        asked = enrolment.asked_for(self._request)
        yield field("node", Input(asked, id="node", max_length=NODE_MOST, compact=True))
        yield field("tenant", _tenant(self._tenants, self._request.label))

    def draft(self) -> Action:
        node = self.query_one("#node", Input).value.strip()
        return enrolment_actions.approve(self._request, node or "NODE", _chosen(self) or "TENANT")

    def missing(self) -> str:
        return _nobody(self)


class DenyDialog(Dialog):
    """A form that denies a request."""

    HELP = "Refuses a node the certificate that it asks for. The node is told the reason."

    def __init__(self, target: str, request: EnrolmentRequest) -> None:
        super().__init__(target, f"Deny {escape(request.subject) or 'a request'}", "Deny")
        self._request = request

    def fields(self) -> Iterable[Widget]:
        yield _about_request(self._request)
        hint = "what the node is told"
        yield field("reason", Input(id="reason", placeholder=hint, max_length=REASON_MOST, compact=True))

    def draft(self) -> Action:
        return enrolment_actions.deny(self._request, self.query_one("#reason", Input).value.strip())


class TokenDialog(Dialog):
    """A form for a new token. Its text is shown here once, and forgotten with the dialog. tenants: names of those that
    there are."""

    HELP = (
        "Makes a token with which one node of one tenant gets its first certificate. Its text is shown this once: kmsd "
        "keeps a hash of it. Whoever has it can be this node. kmsctl enrol --token-file takes it on the node."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+o", "copy_token", "Copy the token", show=False)]

    def __init__(self, target: str, tenants: Sequence[str]) -> None:
        super().__init__(target, "New enrolment token", "Make it")
        self._tenants = tenants
        self._text = ""

    def fields(self) -> Iterable[Widget]:
        yield field("node", Input(id="node", max_length=NODE_MOST, compact=True))
        yield field("tenant", _tenant(self._tenants, self._tenants[0] if len(self._tenants) == 1 else ""))
        yield field("for", Input(_TTL, id="ttl", max_length=16, compact=True))
        yield field("uses", Input("1", id="uses", max_length=4, type="integer", compact=True))

    def draft(self) -> Action:
        node, tenant = self.query_one("#node", Input).value.strip() or "NODE", _chosen(self) or "TENANT"
        ttl, uses = self._ttl, self.query_one("#uses", Input).value
        words = shell.enrol_token(node, tenant, "" if ttl == _TTL else ttl, "" if uses == "1" else uses)
        return enrolment_actions.make_token(
            node, tenant, 0.0 if self._wrong_ttl() else parse_duration(ttl), int(uses) if uses.isdigit() else 0, words
        )

    def missing(self) -> str:
        if self._text:
            return ""
        uses = self.query_one("#uses", Input).value
        if not uses.isdigit() or not 1 <= int(uses) <= _USES_MOST:
            return f"uses: 1 to {_USES_MOST:,}"
        return _nobody(self) or self._wrong_ttl()

    @property
    def _ttl(self) -> str:
        return self.query_one("#ttl", Input).value.strip()

    def _wrong_ttl(self) -> str:
        try:
            return "" if parse_duration(self._ttl) >= 60 else "for: a minute at least"
        except ValueError:
            return "for: as 30m or 12h, 24h at most"

    def _done(self, done: Done) -> None:
        if done.outcome is not None and not (self.is_mounted and self.app.screen is self):
            lost = f"{done.outcome.message}; its text went with the dialog: revoke it (R), and make another"
            done = Done(done.action, ActionOutcome(lost, bad=True))
        super()._done(done)

    def worked(self, done: Done) -> None:
        assert done.outcome is not None  # noqa: S101 - only called with one
        self._text = dict(done.outcome.lines).get(enrolment_actions.SECRET, "")
        self._outcome = None  # what is handed on knows no secret
        self.query_one("#fields").display = False
        self._say(
            "#result",
            (
                Content.assemble(("● ", f"${Colour.GOOD}"), (hang(done.outcome.message, self._columns, 2), "bold")),
                Content(""),
                Content.styled(self._text, f"bold ${Colour.ACCENT}"),
                Content(""),
                Content.styled(hang("It is shown this once, and kept nowhere. On the node:", self._columns, 0), "dim"),
                Content.styled(
                    "kmsctl enrol --server URL --ca-fingerprint sha256:… --token-file FILE --out DIR", "dim"
                ),
            ),
        )
        self.query_one("#command").display = False
        button = self.query_one("#ok", Button)
        button.label, button.disabled = "Copy it (^o)", False
        self.query_one("#cancel", Button).label = "Close"
        button.focus()

    def _go(self) -> None:
        if self._text:
            self.action_copy_token()
        else:
            super()._go()

    def action_copy_token(self) -> None:
        if self._text:
            self.app.copy_to_clipboard(self._text)
            forget_copied(self.app)
            self.notify("copied the token", markup=False)

    def on_unmount(self) -> None:
        self._text = ""


class RevokeTokenDialog(Dialog):
    """A form that has a token count no more."""

    HELP = "Has a token count no more. Certificates that were issued for it stay: revoke those by themselves."

    def __init__(self, target: str, token: EnrolmentToken) -> None:
        super().__init__(target, f"Revoke the token of {escape(token.node)}", "Revoke", danger=True)
        self._token = token

    def fields(self) -> Iterable[Widget]:
        token = self._token
        yield _dim(
            f"{escape(token.id)}, for node {escape(token.node)} of tenant {escape(token.tenant)}",
            f"{token.uses_left} of {token.uses} uses left, until {absolute(token.expires)}",
        )

    def draft(self) -> Action:
        return enrolment_actions.revoke_token(self._token)


class RevokeCertificateDialog(Dialog):
    """A form that revokes a certificate of a node. It wants the name of the node typed."""

    HELP = (
        "Revokes a certificate for good. This key manager refuses it from the next call on, others that share its "
        "store within 5 seconds, and everybody else with the next list of revocations that they fetch. The node needs "
        "a token to enrol anew, and a new key."
    )

    def __init__(self, target: str, certificate: CaCertificate) -> None:
        super().__init__(target, f"Revoke the certificate of {escape(certificate.node)}", "Revoke", danger=True)
        self._certificate = certificate

    def fields(self) -> Iterable[Widget]:
        each = self._certificate
        yield _dim(
            f"serial {escape(each.serial)}",
            f"{escape(', '.join(each.names))}, of tenant {escape(each.tenant)}, until {absolute(each.not_after)}",
        )
        yield warning("the node is refused from the next call on; this cannot be undone")
        yield field(
            "reason",
            Select(_REASONS, value="unspecified", allow_blank=False, type_to_search=False, id="reason", compact=True),
        )
        yield field("confirm", Input(placeholder=f"type {escape(each.node)}", id="confirm", compact=True))

    def preview(self) -> Action:
        return enrolment_actions.revoke_certificate(self._certificate, "unspecified", dry_run=True)

    def draft(self) -> Action:
        return enrolment_actions.revoke_certificate(self._certificate, str(self.query_one("#reason", Select).value))

    def missing(self) -> str:
        typed = self.query_one("#confirm", Input).value.strip()
        return "" if typed == self._certificate.node else "type the node's name to confirm"


def _tenant(tenants: Sequence[str], chosen: str) -> Select[str]:
    names, many = [(escape(name), name) for name in tenants], len(tenants) > _FEW
    if chosen in tenants:
        return Select(names, value=chosen, allow_blank=False, type_to_search=many, id="of-tenant", compact=True)
    return Select(names, prompt="choose one", type_to_search=many, id="of-tenant", compact=True)


def _chosen(dialog: Dialog) -> str:
    value = dialog.query_one("#of-tenant", Select).value
    return value if isinstance(value, str) else ""


def _nobody(dialog: Dialog) -> str:
    """Return what is missing while a form does not name a node and a tenant."""
    if not dialog.query_one("#node", Input).value.strip():
        return "a node is needed"
    return "" if _chosen(dialog) else "a tenant is needed"


def _about_request(request: EnrolmentRequest) -> Static:
    tenant = f", for tenant {escape(request.label)}" if request.label else ""
    return _dim(
        f"{escape(request.subject) or 'no subject'}{tenant}, from {escape(request.address)}",
        f"asked {absolute(request.asked)}; sha256 of its key:",
        request.public_key_sha256,
    )


def _dim(*lines: str) -> Static:
    return Static(Content("\n").join(Content.styled(line, "dim") for line in lines))
