"""Enrolment and the CA, as they are shown: what kmsd is configured for, and how tokens and certificates are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kmsd.client import CaCertificate, EnrolmentRequest, EnrolmentToken
from kmstui.styles import Colour, Look
from kmstui.view import View

CERTIFICATES = 5000
"""Certificates that kmsd is asked for, the last that were issued, page by page."""
LATE = 0.75
"""Share of a certificate's time after which a node that renews by itself, after two thirds, should have done so."""

_REQUESTS = {
    "waiting": Look("▲", "waiting", Colour.WARN),
    "approved": Look("●", "approved", Colour.GOOD),
    "denied": Look("✕", "denied", Colour.PLAIN),
}
_CERTIFICATES = {
    "overdue": Look("◐", "overdue", Colour.WARN),
    "in force": Look("●", "in force", Colour.GOOD),
    "renewed": Look("◦", "renewed", Colour.PLAIN),
    "ended": Look("▽", "ended", Colour.PLAIN),
    "revoked": Look("✕", "revoked", Colour.BAD),
}
_RANKS = {"overdue": 0, "in force": 0, "renewed": 0, "ended": 1, "revoked": 2}


@dataclass(frozen=True)
class Certificate:
    """A certificate of a node, and how it is. state: "in force"; "renewed" if the node has a newer one, too; "overdue"
    if it has none and should; "ended" or "revoked"."""

    issued: CaCertificate
    state: str

    @property
    def look(self) -> Look:
        return _CERTIFICATES[self.state]

    @property
    def order(self) -> tuple[int, float]:
        """Return what certificates are sorted by: those in force by their end, then those that have ended."""
        return _RANKS[self.state], self.end

    @property
    def end(self) -> float:
        """Return when it ends, in seconds since 1970."""
        return self.issued.not_after.timestamp() if self.issued.not_after is not None else float("inf")


def enrols(view: View) -> bool:
    """Return whether kmsd is configured to enrol nodes."""
    return bool(_setting(view, "est.listen"))


def has_ca(view: View) -> bool:
    """Return whether kmsd is configured to be a CA."""
    return _setting(view, "ca.enabled") == "true"


def approves(view: View) -> bool:
    """Return whether requests without a token wait for an operator."""
    return _setting(view, "est.approval") == "manual"


def _setting(view: View, name: str) -> str:
    settings = view.config.value.settings if view.config.value is not None else ()
    return next((each.value.strip('"') for each in settings if each.name == name), "")


def certificates(issued: Sequence[CaCertificate], now: datetime) -> tuple[Certificate, ...]:
    """Return certificates with how each is now, by their end; those that are not in force last."""
    newest: dict[tuple[str, str], datetime] = {}
    for each in issued:
        if each.revoked is None and each.not_after is not None:
            node = each.tenant, each.node
            newest[node] = max(each.not_after, newest.get(node, each.not_after))
    found = (Certificate(each, _state(each, newest.get((each.tenant, each.node)), now)) for each in issued)
    return tuple(sorted(found, key=lambda each: each.order))


def _state(each: CaCertificate, newest: datetime | None, now: datetime) -> str:
    if each.revoked is not None:
        return "revoked"
    if each.not_after is None:
        return "in force"
    if each.not_after <= now:
        return "ended"
    if newest is not None and newest > each.not_after:
        return "renewed"
    if each.not_before is not None and now - each.not_before > LATE * (each.not_after - each.not_before):
        return "overdue"
    return "in force"


def request(each: EnrolmentRequest) -> Look:
    """Return the look of a request."""
    return _REQUESTS.get(each.state, Look("?", each.state, Colour.WARN))


def token(each: EnrolmentToken) -> Look:
    """Return the look of a token."""
    if each.usable:
        return Look("●", "usable", Colour.GOOD)
    if each.revoked is not None:
        return Look("✕", "revoked", Colour.BAD)
    return Look("▽", "used" if each.uses_left == 0 else "ended", Colour.PLAIN)


def asked_for(each: EnrolmentRequest) -> str:
    """Return the name of the node that a request asks for: the common name of its subject; empty if it has none."""
    names = (part.strip() for part in each.subject.split(","))
    return next((name.partition("=")[2] for name in names if name.upper().startswith("CN=")), "")
