"""The tables of enrolment: requests, tokens and certificates; and all that is to be said of one of each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from kmsd.client import EnrolmentRequest, EnrolmentToken, escape
from kmstui import enrolment
from kmstui.enrolment import Certificate
from kmstui.styles import Colour
from kmstui.text import absolute, age, ago, duration
from kmstui.view import Moment
from kmstui.widgets.columns import Column, ItemKind
from kmstui.widgets.detail import Fact

_STATES = ("waiting", "approved", "denied")

REQUESTS = ItemKind[EnrolmentRequest](
    "Requests",
    (
        Column(
            "state",
            lambda each, _: str(enrolment.request(each)),
            fixed=10,
            colour=lambda each: enrolment.request(each).colour,
            order=lambda each: (
                _STATES.index(each.state) if each.state in _STATES else len(_STATES),
                _time(each.asked),
            ),
        ),
        Column("subject", lambda each, _: each.subject or "-", least=12, order=lambda each: each.subject),
        Column("tenant", lambda each, _: each.tenant or each.label or "-", least=8),
        Column(
            "asked",
            lambda each, moment: age(each.asked, moment.wall),
            fixed=6,
            right=True,
            order=lambda each: _time(each.asked),
            falling=True,
        ),
        Column("key", lambda each, _: each.public_key_sha256[:16], fixed=16),
        Column("address", lambda each, _: each.address, least=9, optional=True),
        Column("node", lambda each, _: each.node, least=8, optional=True),
        Column("reason", lambda each, _: each.reason, least=12, optional=True),
    ),
    lambda each: each.id,
    lambda each: (
        *(escape(text) for text in (each.subject, each.tenant, each.label, each.node, each.address, each.reason)),
        each.public_key_sha256,
        each.state,
    ),
    lambda each: each.id,
    "id",
    faint=lambda each: each.state != "waiting",
    order=("state", False),
    command=("enrol", "pending"),
)

TOKENS = ItemKind[EnrolmentToken](
    "Enrolment tokens",
    (
        Column(
            "state",
            lambda each, _: str(enrolment.token(each)),
            fixed=9,
            colour=lambda each: enrolment.token(each).colour,
            order=lambda each: (not each.usable, _time(each.expires)),
        ),
        Column("node", lambda each, _: each.node, least=10, order=lambda each: each.node),
        Column("tenant", lambda each, _: each.tenant, least=8, order=lambda each: each.tenant),
        Column("left", lambda each, _: f"{each.uses_left}/{each.uses}", fixed=5, right=True),
        Column(
            "ends",
            lambda each, moment: _ends(each.expires, moment),
            fixed=6,
            right=True,
            order=lambda each: _time(each.expires),
        ),
        Column("id", lambda each, _: each.id, fixed=16, optional=True),
        Column("by", lambda each, _: each.made_by, least=8, optional=True),
    ),
    lambda each: each.id,
    lambda each: (escape(each.node), escape(each.tenant), each.id, escape(each.made_by), enrolment.token(each).word),
    lambda each: each.id,
    "id",
    faint=lambda each: not each.usable,
    order=("state", False),
    command=("enrol", "tokens"),
)

CERTIFICATES = ItemKind[Certificate](
    "Certificates",
    (
        Column("state", lambda each, _: str(each.look), fixed=10, colour=lambda each: each.look.colour),
        Column("node", lambda each, _: each.issued.node, least=12, order=lambda each: each.issued.node),
        Column("tenant", lambda each, _: each.issued.tenant or "-", least=8, order=lambda each: each.issued.tenant),
        Column(
            "ends",
            lambda each, moment: _ends(each.issued.not_after, moment),
            fixed=6,
            right=True,
            order=lambda each: each.order,
        ),
        Column("serial", lambda each, _: each.issued.serial, least=24),
        Column("until", lambda each, _: absolute(each.issued.not_after), optional=True),
        Column("reason", lambda each, _: each.issued.reason, least=12, optional=True),
    ),
    lambda each: each.issued.serial,
    lambda each: (
        escape(each.issued.node),
        escape(each.issued.tenant),
        each.issued.serial,
        each.state,
        each.issued.reason,
        *(escape(name) for name in each.issued.names),
    ),
    lambda each: each.issued.serial,
    "serial number",
    data=lambda each: each.issued,
    faint=lambda each: each.state in ("renewed", "ended", "revoked"),
    order=("ends", False),
    command=("ca", "show"),
)


def _time(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


def _ends(end: datetime | None, moment: Moment) -> str:
    if end is None:
        return "-"
    return age(moment.wall, end) if end > moment.wall else "ended"


def request_facts(each: EnrolmentRequest, moment: Moment) -> Iterator[Fact]:
    """Return a request as lines of names and values."""
    look = enrolment.request(each)
    by = f" {ago(each.decided, moment.wall)} by {escape(each.decided_by)}" if each.decided is not None else ""
    yield Fact("state", f"{look}{by}", look.colour)
    if each.reason:
        yield Fact("reason", escape(each.reason))
    if each.node:
        yield Fact("for", f"node {escape(each.node)} of tenant {escape(each.tenant)}")
    yield Fact("subject", escape(each.subject) or "none")
    yield Fact("tenant", escape(each.label) or "it asks for none")
    yield Fact("address", escape(each.address))
    yield Fact("asked", f"{absolute(each.asked)}; {_end(each.expires, moment)}")
    yield Fact("key", f"sha256 {escape(each.public_key_sha256)}")
    yield Fact("", "compare it with the node's before you approve: anybody can ask for any name")
    yield Fact("id", escape(each.id))


def token_facts(each: EnrolmentToken, moment: Moment) -> Iterator[Fact]:
    """Return a token as lines of names and values, without its secret, which nobody has."""
    look = enrolment.token(each)
    since = f" {ago(each.revoked, moment.wall)}, {absolute(each.revoked)}" if each.revoked is not None else ""
    yield Fact("state", f"{look}{since}", look.colour)
    yield Fact("for", f"node {escape(each.node)} of tenant {escape(each.tenant)}")
    yield Fact("uses", f"{each.uses_left} of {each.uses} left")
    yield Fact("until", f"{absolute(each.expires)}; {_end(each.expires, moment)}")
    yield Fact("made", f"{absolute(each.created)} by {escape(each.made_by)}")
    yield Fact("id", escape(each.id))


def certificate_facts(each: Certificate, moment: Moment) -> Iterator[Fact]:
    """Return a certificate as lines of names and values."""
    issued = each.issued
    yield Fact("state", str(each.look), each.look.colour)
    match each.state:
        case "overdue":
            yield Fact("", "over three quarters of its time are over, and the node has no newer one", Colour.WARN)
        case "renewed":
            yield Fact("", "the node has a newer one")
        case "revoked":
            since = f"{absolute(issued.revoked)}, {ago(issued.revoked, moment.wall)}"
            yield Fact("revoked", f"{since}: {escape(issued.reason) or 'unspecified'}", Colour.BAD)
    whose = f" of tenant {escape(issued.tenant)}" if issued.tenant else ": the key manager's own, for its server"
    yield Fact("node", f"{escape(issued.node)}{whose}")
    yield Fact("subject", escape(issued.subject) or "empty")
    yield Fact("names", escape(", ".join(issued.names)))
    yield Fact("serial", escape(issued.serial))
    yield Fact("from", absolute(issued.not_before))
    yield Fact("until", f"{absolute(issued.not_after)}; {_end(issued.not_after, moment)}")
    yield Fact("issuer", escape(issued.issuer))
    yield Fact("sha256", escape(issued.sha256))


def _end(end: datetime | None, moment: Moment) -> str:
    if end is None:
        return "it has no end"
    if end <= moment.wall:
        return f"it ended {ago(end, moment.wall)}"
    return f"it ends in {duration((end - moment.wall).total_seconds())}"
