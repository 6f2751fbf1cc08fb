"""Decide who gets a certificate: whoever shows a token, whom an operator approves, or whose certificate is in force.

All of it waits for the database, for slow hashes and for the token with the CA's key: it is for a thread of its own,
and threads share it. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from kmsd.ca.ledger import Issued
from kmsd.errors import Conflict, Denied, InvalidRequest, KmsdError, NotFound, Unavailable, short
from kmsd.est import tokens
from kmsd.store.records import EnrolmentRequest, EnrolmentToken, RequestState
from kmsd.store.store import Store

LEAST_TTL: Final = 60
MOST_TTL: Final = 30 * 86400
"""Seconds for which a token can be made."""
MOST_USES: Final = 1000
REQUEST_SECONDS: Final = 7 * 86400
"""Seconds for which a request waits for an operator, and for its node to fetch what came of it."""
AGAIN_SECONDS: Final = 15
"""Seconds after which a node that waits asks again."""


class Names(Protocol):
    """The rules for the names of nodes, as `kmsd.ca.profile.Profile` has them."""

    def names_of(self, node: str, tenant: str) -> tuple[str, ...]:
        """Return the names that the certificate of a node has. Raises KmsdError for a node or tenant that is none."""


class Authority(Protocol):
    """The CA, as `kmsd.ca.authority.Authority` is."""

    def issue(self, csr: x509.CertificateSigningRequest, node: str, tenant: str) -> x509.Certificate:
        """Issue the certificate of a node. Raises KmsdError."""

    def renew(self, csr: x509.CertificateSigningRequest, present: x509.Certificate) -> x509.Certificate:
        """Issue the certificate that follows a present one. Raises KmsdError."""

    def known(self, certificate: x509.Certificate) -> Issued:
        """Return what is remembered of a certificate. Raises Denied if it was not issued here."""


class NotProven(KmsdError):
    """Raised if a caller has not shown who it is: it has no token, or one that does not count."""

    code: ClassVar[str] = "UNAUTHENTICATED"


@dataclass(frozen=True)
class Outcome:
    """A certificate that was issued, for whom, and by what right, in words."""

    certificate: x509.Certificate
    node: str
    tenant: str
    right: str


@dataclass(frozen=True)
class Waiting:
    """A request that waits for an operator. seconds: after which to ask again."""

    request_id: str
    seconds: int = AGAIN_SECONDS


class Enrolment:
    """The judge of requests.

    store, authority, names: asked each time; they raise KmsdError while there is none. approval: what becomes of a
    first request without a token.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        authority: Callable[[], Authority],
        names: Callable[[], Names],
        approval: Literal["token", "manual"] = "token",
    ) -> None:
        self.store = store
        self._authority = authority
        self._names = names
        self._approval = approval

    def first(
        self, csr: x509.CertificateSigningRequest, shown: tuple[str, str] | None, label: str, address: str
    ) -> Outcome | Waiting:
        """Answer a request for a first certificate. shown: user and password; None if neither was given. label: the
        tenant that the path names; may be empty. Raises KmsdError."""
        if shown is not None:
            return self._by_token(csr, self._proven(*shown), label)
        if self._approval == "manual":
            return self._by_operator(csr, label, address)
        raise NotProven("an enrolment token is needed", "kmsctl enrol token NODE --tenant TENANT makes one")

    def again(self, csr: x509.CertificateSigningRequest, present: x509.Certificate, label: str) -> Outcome:
        """Answer a request for the certificate that follows the present one. Raises KmsdError."""
        authority = self._ca()
        known = authority.known(present)
        _fits(label, known.tenant)
        made = authority.renew(csr, present)
        return Outcome(made, known.node, known.tenant, f"certificate {known.serial_hex}")

    def _ca(self) -> Authority:
        """Return the CA. Raises Unavailable, whatever the reason: it is none that a node could mend."""
        try:
            return self._authority()
        except KmsdError as error:
            raise Unavailable(error.message, error.hint) from error

    def _proven(self, user: str, password: str) -> EnrolmentToken:
        """Return the token that was shown. Raises NotProven."""
        parts = tokens.parts(password.strip())
        if parts is None:
            raise NotProven("the password is no enrolment token", "give it whole: kmsd-enrol-...")
        token_id, secret = parts
        token = self.store().tokens.find(token_id)
        salt, expected = (token.salt, token.hash) if token is not None else (None, None)
        if not tokens.is_secret(secret, salt, expected) or token is None:
            raise NotProven("the enrolment token is not known", "kmsctl enrol token NODE --tenant TENANT makes one")
        if user not in ("", token.node):
            raise NotProven(f"the enrolment token is not that of node {short(user)}", "each node has one of its own")
        if token.revoked_at or time.time() >= token.expires:
            raise NotProven(_why_not(token), "kmsctl enrol token NODE --tenant TENANT makes another one")
        return token

    def _by_token(self, csr: x509.CertificateSigningRequest, token: EnrolmentToken, label: str) -> Outcome:
        _fits(label, token.tenant)
        authority, kept = self._ca(), self.store().tokens
        if not kept.use(token.id, time.time()):
            if (made_before := self._made_before(csr, token)) is not None:
                return made_before
            raise NotProven(_why_not(kept.find(token.id) or token), "kmsctl enrol token makes another one")
        try:
            made = authority.issue(csr, token.node, token.tenant)
        except BaseException:
            # Nobody has got a certificate for it. If this fails, too, the use is lost, and an operator makes another.
            with contextlib.suppress(KmsdError):
                kept.give_back(token.id)
            raise
        return Outcome(made, token.node, token.tenant, f"token {token.id}")

    def _made_before(self, csr: x509.CertificateSigningRequest, token: EnrolmentToken) -> Outcome | None:
        """Return the certificate that this token was used for, if the request is for its very key: the answer may have
        been lost on its way, and a node that asks again is not to need an operator."""
        now = datetime.now(UTC)
        for each in self.store().ledger.of_key(_key_sha256(csr)):
            certificate = x509.load_der_x509_certificate(each.der)
            mine = (each.node, each.tenant) == (token.node, token.tenant) and each.revoked_at is None
            if mine and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
                return Outcome(certificate, each.node, each.tenant, f"token {token.id}, which was used for it before")
        return None

    def _by_operator(self, csr: x509.CertificateSigningRequest, label: str, address: str) -> Outcome | Waiting:
        authority, kept = self._ca(), self.store().requests
        digest, now = _key_sha256(csr).hex(), int(time.time())
        subject = csr.subject.rfc4514_string()[:255]
        asked = EnrolmentRequest(
            digest[:16], digest, csr.public_bytes(Encoding.DER), subject, label, address, now, now + REQUEST_SECONDS
        )
        request = kept.ask(asked)
        if request.state is RequestState.DENIED:
            raise Denied(f"an operator has denied this request: {request.reason or 'no reason given'}", "ask them")
        if request.state is RequestState.WAITING or not kept.take(request.id):
            return Waiting(request.id)
        try:
            made = authority.issue(csr, request.node, request.tenant)
        except BaseException:
            with contextlib.suppress(KmsdError):
                kept.give_back(request)
            raise
        return Outcome(made, request.node, request.tenant, f"request {request.id}, by {request.decided_by}")

    # What operators do.

    def make_token(self, node: str, tenant: str, ttl: int, uses: int, made_by: str) -> tuple[str, EnrolmentToken]:
        """Make a token for a node; return its text, which nobody can be told again, and what is kept of it. ttl:
        seconds. Raises KmsdError."""
        if not LEAST_TTL <= ttl <= MOST_TTL:
            raise InvalidRequest(
                f"a token must last {LEAST_TTL} to {MOST_TTL} seconds, got {ttl}", "for example --ttl 1h"
            )
        if not 1 <= uses <= MOST_USES:
            raise InvalidRequest(f"a token must have 1 to {MOST_USES} uses, got {uses}", "one is for one certificate")
        self._names().names_of(node, tenant)
        text, token_id, salt, digest = tokens.make()
        now = int(time.time())
        token = EnrolmentToken(token_id, salt, digest, node, tenant, now + ttl, uses, uses, made_by[:255], now)
        self.store().tokens.add(token)
        return text, token

    def tokens(self) -> Sequence[EnrolmentToken]:
        """Return the tokens that are kept, the newest first. Raises Unavailable."""
        return self.store().tokens.all()

    def revoke_token(self, token_id: str) -> EnrolmentToken:
        """Have a token count no more. Raises NotFound, Unavailable."""
        revoked = self.store().tokens.revoke(token_id, time.time())
        if revoked is None:
            raise NotFound(f"there is no enrolment token {short(token_id)}", "kmsctl enrol tokens lists them")
        return revoked

    def requests(self) -> Sequence[EnrolmentRequest]:
        """Return the requests that are kept, the oldest first. Raises Unavailable."""
        return self.store().requests.all()

    def decide(self, request_id: str, allow: bool, node: str, tenant: str, by: str, reason: str) -> EnrolmentRequest:
        """Decide on a request: approve or deny it; return it as it is then. node, tenant: for whom; empty: whom it asks
        for. Raises NotFound, Conflict if it was decided already, and InvalidRequest."""
        kept = self.store().requests
        request = kept.find(request_id)
        if request is None:
            raise NotFound(f"there is no request {short(request_id)}", "kmsctl enrol pending lists them")
        if allow:
            node, tenant = node or common_name(request.csr), tenant or request.label
            if not node or not tenant:
                what = "node" if not node else "tenant"
                raise InvalidRequest(f"the request names no {what}", f"name it: --{what}")
            self._names().names_of(node, tenant)
        decided = EnrolmentRequest(
            **{
                **vars(request),
                "state": RequestState.APPROVED if allow else RequestState.DENIED,
                "node": node if allow else "",
                "tenant": tenant if allow else "",
                "decided_by": by[:255],
                "decided_at": int(time.time()),
                "reason": reason[:255],
            }
        )
        if not kept.decide(decided):
            raise Conflict(f"the request {request_id} was decided already", "kmsctl enrol pending shows how")
        return decided


def common_name(csr: bytes) -> str:
    """Return the common name that a request (DER) has; empty if none."""
    try:
        found = x509.load_der_x509_csr(csr).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(found[0].value) if len(found) == 1 else ""


def _key_sha256(csr: x509.CertificateSigningRequest) -> bytes:
    return hashlib.sha256(csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _fits(label: str, tenant: str) -> None:
    if label not in ("", tenant):
        raise Denied(
            f"the path names {short(label)}, and this caller is one of tenant {tenant!r}",
            f"ask at /.well-known/est/{tenant}, or without a name",
        )


def _why_not(token: EnrolmentToken) -> str:
    if token.revoked_at:
        return "the enrolment token was revoked"
    if token.uses_left <= 0:
        return "the enrolment token has been used"
    return "the enrolment token has ended"
