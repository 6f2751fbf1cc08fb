"""Tell the certificates of a CA apart: which is for which of its keys, and which others need. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kmsd.ca import request
from kmsd.ca.making import identifier_in
from kmsd.ca.request import PublicKey
from kmsd.errors import InvalidRequest, Misconfigured
from kmsd.unreadable import X509_UNREADABLE

MOST: Final = 64 * 1024
"""Bytes of the longest chain that is read."""
_LONGEST: Final = 8
"""Certificates of the longest chain that is taken."""


def parse(data: bytes) -> list[x509.Certificate]:
    """Read certificates as PEM, or one as DER. Raises InvalidRequest."""
    if len(data) > MOST:
        raise InvalidRequest(f"a chain must have {MOST} bytes at most, got {len(data)}", "leave out what is no CA's")
    try:
        found = (
            x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        )
    except X509_UNREADABLE as error:
        raise InvalidRequest("these are no certificates as PEM, and none as DER", "give the file of the CA") from error
    if len(found) > _LONGEST:
        raise InvalidRequest(f"a chain must have {_LONGEST} certificates at most, got {len(found)}", "give one chain")
    return found


def key_sha256(certificate: x509.Certificate) -> bytes:
    """Return the hash of a certificate's public key; empty for a key that is neither EC nor RSA."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return request.key_sha256(key) if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else b""


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether the key in one certificate signed the other."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def is_cross(certificate: x509.Certificate) -> bool:
    """Return whether a CA has signed its own name with another of its keys."""
    return certificate.issuer == certificate.subject and not issued_by(certificate, certificate)


def own(certificates: Sequence[x509.Certificate], key: PublicKey) -> x509.Certificate | None:
    """Return the certificate that was made for a key of the CA, the last of several; None if there is none."""
    digest = request.key_sha256(key)
    found = [each for each in certificates if key_sha256(each) == digest and not is_cross(each)]
    return found[-1] if found else None


def others(
    certificates: Sequence[x509.Certificate], signers: Sequence[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return what belongs to the chain beside the certificates of the keys that sign: those with which they sign each
    other, and the CAs above them."""
    identifiers = {identifier_in(each) for each in signers}
    found: list[x509.Certificate] = []
    for each in certificates:
        between = is_cross(each) and identifier_in(each) in identifiers and each.not_valid_after_utc > now
        if between and any(issued_by(each, signer) for signer in signers):
            found.append(each)
    wanted = list(signers)
    while wanted:
        below = wanted.pop()
        for each in certificates:
            if each not in found and each not in signers and not is_cross(each) and issued_by(below, each):
                found.append(each)
                wanted.append(each)
    return tuple(found)


def check_given(given: Sequence[x509.Certificate], now: datetime) -> None:
    """Check a certificate for a key of the CA, with the certificates of the CAs above it behind it. Raises
    InvalidRequest and Misconfigured."""
    first = given[0]
    try:
        constraints = first.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = first.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise InvalidRequest(
            "the certificate is no CA's: basicConstraints or keyUsage is missing",
            "have it made from the request with CA:TRUE, keyCertSign and cRLSign",
        ) from error
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise InvalidRequest(
            "the certificate is no CA's", "have it made from the request with CA:TRUE, keyCertSign and cRLSign"
        )
    if not first.not_valid_before_utc <= now < first.not_valid_after_utc:
        raise Misconfigured(
            f"the certificate is in force from {first.not_valid_before_utc:%F %T} to "
            f"{first.not_valid_after_utc:%F %T} UTC, and that is not now",
            "check the clock, or have another one made",
        )
    for below, above in zip(given, [*given[1:], given[-1]], strict=True):
        if not issued_by(below, above):
            raise InvalidRequest(
                f"the certificate of {above.subject.rfc4514_string()} did not sign that of "
                f"{below.subject.rfc4514_string()}, or the chain does not end with a root",
                "put the CA's certificate first, then the one above it, and so on up to the root",
            )
