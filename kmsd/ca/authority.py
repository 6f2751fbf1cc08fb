"""The certificate authority: it issues, renews and revokes, with a key that it is given and by its profile alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from kmsd.ca import making, request
from kmsd.ca.ledger import Issued, Ledger, Reason
from kmsd.ca.making import CaKey
from kmsd.ca.profile import Profile
from kmsd.ca.request import PublicKey
from kmsd.errors import Conflict, Denied, InvalidRequest, Misconfigured, WrongResult

DER: Final = serialization.Encoding.DER
_LEAST_LEFT: Final = timedelta(minutes=1)
"""A CA that ends sooner issues nothing any more."""


@dataclass(frozen=True)
class Signer:
    """A key of the CA and the certificate that was made for it."""

    certificate: x509.Certificate
    key: CaKey


def _now() -> datetime:
    return datetime.now(UTC)


class Authority:
    """A certificate authority. Every method may wait for a token and for the ledger, so it is for a thread of its own;
    threads share it.

    signers: the key that issues first, then those before it, whose certificates are still out: each signs a list of
    revocations. others: certificates that belong to the chain beside the signers' own: cross certificates, and the CAs
    above. ledger: what must be remembered. now: the clock.
    """

    def __init__(
        self,
        signers: Sequence[Signer],
        profile: Profile,
        ledger: Ledger,
        others: Sequence[x509.Certificate] = (),
        now: Callable[[], datetime] = _now,
    ) -> None:
        self.signers = tuple(signers)
        self.profile = profile
        self.ledger = ledger
        self._others = tuple(others)
        self._now = now

    @property
    def signer(self) -> Signer:
        """The key that issues, with its certificate."""
        return self.signers[0]

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The certificates that others need to check those that are issued here: what /cacerts of EST gives."""
        return (*(each.certificate for each in self.signers), *self._others)

    def issue(self, csr: x509.CertificateSigningRequest, node: str, tenant: str) -> x509.Certificate:
        """Issue the certificate of a node. Raises InvalidRequest and Denied with what is wrong with the request,
        NotFound for an unknown tenant, and what the token and the ledger say."""
        return self._issue(csr, node, tenant, self.profile.names_of(node, tenant))

    def renew(self, csr: x509.CertificateSigningRequest, present: x509.Certificate) -> x509.Certificate:
        """Issue the certificate that follows a present one, with its names and the same key or another. Raises Denied
        if the present one is not in force, and what `issue` raises."""
        known = self.known(present)
        if known.revoked_at is not None:
            raise Denied(
                f"the present certificate {known.serial_hex} is revoked ({known.reason})",
                "enrol the node anew: kmsctl enrol token",
            )
        if not present.not_valid_before_utc <= self._now() < present.not_valid_after_utc:
            raise Denied(
                f"the present certificate {known.serial_hex} is in force from {present.not_valid_before_utc:%F %T} to "
                f"{present.not_valid_after_utc:%F %T} UTC",
                "check the clocks; a node whose certificate has ended is enrolled anew: kmsctl enrol token",
            )
        san = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = request.names_in(san)
        self.profile.check_names(names, known.tenant)
        return self._issue(csr, known.node, known.tenant, names)

    def known(self, certificate: x509.Certificate) -> Issued:
        """Return what is remembered of a certificate. Raises Denied if it was not issued here."""
        found = self.ledger.find(certificate.serial_number)
        if found is None or found.der != certificate.public_bytes(DER):
            raise Denied(
                f"the certificate {certificate.serial_number:x} was not issued here", "enrol: kmsctl enrol token"
            )
        return found

    def _issue(
        self, csr: x509.CertificateSigningRequest, node: str, tenant: str, names: tuple[str, ...]
    ) -> x509.Certificate:
        public = self._check(csr, node, tenant, names)
        now, issuer = self._now().replace(microsecond=0), self.signer.certificate
        end = min(now + self.profile.lifetime, issuer.not_valid_after_utc)
        if end < now + _LEAST_LEFT or now < issuer.not_valid_before_utc:
            raise Misconfigured(
                f"the CA itself is in force from {issuer.not_valid_before_utc:%F %T} to "
                f"{issuer.not_valid_after_utc:%F %T} UTC, and issues nothing now",
                "check the clock; a new CA key: kmsctl ca roll",
            )
        begin = max(now - self.profile.backdate, issuer.not_valid_before_utc)
        made = making.node_certificate(public, node, names, self.signer.key, issuer, begin, end, self.profile.crl_url)
        check_signed(made, issuer)
        # Nobody has it before it is remembered: a certificate that cannot be revoked must not be out.
        self.ledger.record(
            Issued(
                made.serial_number,
                making.identifier_in(issuer),
                node,
                tenant,
                request.key_sha256(public),
                begin,
                end,
                made.public_bytes(DER),
            )
        )
        return made

    def _check(self, csr: x509.CertificateSigningRequest, node: str, tenant: str, names: tuple[str, ...]) -> PublicKey:
        public = request.public_key(csr)
        kind = request.key_type(public)
        if kind not in self.profile.key_types:
            raise InvalidRequest(
                f"the request is refused: its key is {kind}",
                f"use one of {', '.join(sorted(self.profile.key_types))} (ca.key_types)",
            )
        request.check_asked(csr, node, names)
        digest = request.key_sha256(public)
        if any(digest == certificate_key(each.certificate) for each in self.signers):
            raise Denied("the request is refused: its key is that of the CA itself", "make a key for the node")
        for known in self.ledger.of_key(digest):
            if (known.node, known.tenant) != (node, tenant):
                raise Denied(
                    f"the request is refused: its key is that of node {known.node!r} of tenant {known.tenant!r}, in "
                    f"certificate {known.serial_hex}",
                    "make a key for each node, and let it stay there",
                )
            if known.revoked_at is not None:
                raise Denied(
                    f"the request is refused: its key is that of certificate {known.serial_hex}, which is revoked",
                    "make another key",
                )
        return public

    def revoke(self, serial: int, reason: Reason) -> Issued:
        """Revoke a certificate; return it as it is then. The lists that are signed from now on name it. Raises
        NotFound."""
        return self.ledger.revoke(serial, self._now(), reason)

    def crls(self) -> tuple[bytes, ...]:
        """Sign the lists of revocations, as DER: one by each key, the one that issues first. All have the same name as
        issuer and the same content, for a certificate says by its issuer's key which list is meant."""
        now = self._now().replace(microsecond=0)
        # RFC 5280, 3.3: a certificate is on one list after its end.
        revoked = self.ledger.revoked(now - self.profile.crl_lifetime)
        number = self.ledger.next_crl_number()
        return tuple(self._crl(each, revoked, number, now) for each in self.signers)

    def crl(self) -> bytes:
        """Sign the list of revocations by the key that issues, as DER."""
        return self.crls()[0]

    def _crl(self, by: Signer, revoked: Sequence[Issued], number: int, now: datetime) -> bytes:
        until = min(now + self.profile.crl_lifetime, by.certificate.not_valid_after_utc)
        if until <= now:
            raise Misconfigured("the CA itself has ended, and signs nothing", "a new CA key: kmsctl ca roll")
        crl = making.revocation_list(revoked, number, by.key, by.certificate, now, until)
        if not crl.is_signature_valid(by.certificate.public_key()):  # type: ignore[arg-type]
            raise _wrong("a list of revocations")
        return crl.public_bytes(DER)


def check_signed(made: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise WrongResult unless the key of this issuer signed a certificate."""
    try:
        made.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _wrong("a certificate") from error


def certificate_key(certificate: x509.Certificate) -> bytes:
    """Return the hash of a certificate's public key. Raises Conflict for a key that is neither EC nor RSA."""
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise Conflict("the key of the certificate is neither an EC nor an RSA key", "use another")
    return request.key_sha256(key)


def _wrong(what: str) -> WrongResult:
    return WrongResult(
        f"the signature of {what} does not fit the CA's key: it was thrown away",
        "check the token: kmsctl doctor; the key and the certificate of the CA may have parted",
    )
