"""The forms of bodies in EST (RFC 7030 4, RFC 8951): base64, however it is wrapped, and PKCS#7. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from kmsd.errors import InvalidRequest
from kmsd.unreadable import X509_UNREADABLE

MOST: Final = 64 * 1024
"""Bytes of a body at the most."""
PREFIX: Final = "/.well-known/est"
PKCS10: Final = "application/pkcs10"
CERTS_ONLY: Final = "application/pkcs7-mime; smime-type=certs-only"
CSRATTRS: Final = "application/csrattrs"
MOST_REQUEST: Final = 16 * 1024
"""Bytes of the DER of a request."""
_MOST_CERTIFICATES: Final = 64
_ARMOUR: Final = re.compile(rb"-----BEGIN [A-Z0-9# ]{1,40}-----(.*?)-----END [A-Z0-9# ]{1,40}-----", re.DOTALL)
_BLANKS: Final = b" \t\r\n\v\f"


def decode(body: bytes) -> bytes:
    """Return the DER that a body holds: as base64, wrapped or not, with or without PEM's lines, or as it is.

    What Content-Transfer-Encoding says does not matter (RFC 8951 3.1). Raises InvalidRequest.
    """
    if len(body) > MOST:
        raise InvalidRequest(f"the body has more than {MOST} bytes", "send one object, as base64")
    text = body.strip(_BLANKS)
    if not text:
        raise InvalidRequest("the body is empty", "send a PKCS#10 request as base64")
    if text[:1] == b"\x30" and not text.isascii():
        return body  # DER as it is, as some clients send it
    if text.startswith(b"-----BEGIN"):
        armoured = _ARMOUR.fullmatch(text)
        if armoured is None:
            raise InvalidRequest("the body begins as PEM and is not one PEM object", "send one object, as base64")
        text = armoured[1]
    try:
        return base64.b64decode(text.translate(None, _BLANKS), validate=True)
    except binascii.Error as error:
        raise InvalidRequest(
            "the body is not base64", "send the DER of the request as base64: openssl base64"
        ) from error


def encode(der: bytes) -> bytes:
    """Return base64 in one line (RFC 8951 3.1), as a server answers: strongSwan, for one, reads no others."""
    return base64.b64encode(der)


def encode_request(der: bytes) -> bytes:
    """Return base64 in lines of 76 characters (RFC 7030 4.2.1), as a client asks: there are servers that read no longer
    ones."""
    return base64.encodebytes(der)


def certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return the body with these certificates (RFC 7030 4.1.3, RFC 5272 4.1)."""
    return encode(pkcs7.serialize_certificates(list(certificates), Encoding.DER))


def certificates_in(body: bytes) -> list[x509.Certificate]:
    """Return the certificates of a body. Raises InvalidRequest if it is not such a body, or has none or too many."""
    der = decode(body)
    try:
        found = pkcs7.load_der_pkcs7_certificates(der)
    except X509_UNREADABLE as error:
        raise InvalidRequest("the body is no PKCS#7 with certificates") from error
    if not 1 <= len(found) <= _MOST_CERTIFICATES:
        raise InvalidRequest(f"the body has {len(found)} certificates, and 1 to {_MOST_CERTIFICATES} are taken")
    return found


def request_in(body: bytes) -> x509.CertificateSigningRequest:
    """Return the request for a certificate of a body. Raises InvalidRequest if it is none, or has a broken
    signature."""
    der = decode(body)
    if len(der) > MOST_REQUEST:
        raise InvalidRequest(
            f"the request has {len(der)} bytes, and {MOST_REQUEST} are taken", "send one PKCS#10 request"
        )
    try:
        csr = x509.load_der_x509_csr(der)
        csr.subject  # noqa: B018 - read here, so that nobody who asks for it later fails
        sound = csr.is_signature_valid
    except X509_UNREADABLE as error:
        raise InvalidRequest(
            "the body is no request (PKCS#10) with a key that is taken", "make one: openssl req -new -key KEY"
        ) from error
    if not sound:
        raise InvalidRequest("the signature of the request is broken", "sign it with the key that it is for")
    return csr
