"""The actions on enrolment and on certificates of nodes, as data like all others. Knows no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.client import CaCertificate, EnrolmentRequest, EnrolmentToken, escape
from kmstui import shell
from kmstui.action import Action, ActionOutcome
from kmstui.actions import TIMEOUT
from kmstui.text import absolute

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

SECRET = "token"  # noqa: S105 - the name of a line
"""The name of the line of an outcome that holds the text of a token."""


def approve(request: EnrolmentRequest, node: str, tenant: str) -> Action:
    """Let a node have the certificate that it asks for."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        decided = kmsd.decide_enrolment_request(request.id, approve=True, node=node, tenant=tenant, timeout=TIMEOUT)
        whom = f"node {escape(decided.node)} of tenant {escape(decided.tenant)}"
        return ActionOutcome(f"{whom} gets its certificate when it asks again")

    return Action(f"approve {escape(request.id)}", shell.approve(request.id, node, tenant), call)


def deny(request: EnrolmentRequest, reason: str) -> Action:
    """Refuse a node the certificate that it asks for."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        decided = kmsd.decide_enrolment_request(request.id, approve=False, reason=reason, timeout=TIMEOUT)
        return ActionOutcome(f"the request of {escape(decided.subject) or 'a node'} is denied")

    return Action(f"deny {escape(request.id)}", shell.deny(request.id, reason), call)


def make_token(node: str, tenant: str, ttl: float, uses: int, words: tuple[str, ...]) -> Action:
    """Make an enrolment token. ttl: seconds. words: of the kmsctl command."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        made = kmsd.create_enrolment_token(node, tenant, ttl=ttl, uses=uses, timeout=TIMEOUT)
        token = made.token
        whom = f"node {escape(token.node)} of tenant {escape(token.tenant)}"
        return ActionOutcome(
            f"made token {escape(token.id)} for {whom}, until {absolute(token.expires)}", ((SECRET, made.text),)
        )

    return Action(f"make a token for {escape(node)}", words, call)


def revoke_token(token: EnrolmentToken) -> Action:
    """Have a token count no more."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        revoked = kmsd.revoke_enrolment_token(token.id, timeout=TIMEOUT)
        return ActionOutcome(f"token {escape(revoked.id)} of node {escape(revoked.node)} counts no more")

    return Action(f"revoke token {escape(token.id)}", shell.revoke_token(token.id), call)


def revoke_certificate(certificate: CaCertificate, reason: str, *, dry_run: bool = False) -> Action:
    """Revoke a certificate of a node, for good. reason: as in RFC 5280."""

    def call(kmsd: AdminClient) -> ActionOutcome:
        answer = kmsd.revoke_certificate(serial=certificate.serial, reason=reason, dry_run=dry_run, timeout=TIMEOUT)
        if dry_run:
            return ActionOutcome("nothing speaks against it")
        message = f"the certificate of node {escape(certificate.node)} is revoked"
        if answer.listed:
            return ActionOutcome(f"{message}, and the list of revocations names it")
        because = f"it is not in the list of revocations yet: {escape(answer.not_listed_because)}"
        return ActionOutcome(f"{message}: it is refused here", (("list", because),))

    words = shell.revoke_certificate(certificate.serial, reason)
    return Action(
        f"revoke {escape(certificate.serial)}", (*words, "--dry-run" if dry_run else "--yes"), call, changes=not dry_run
    )
