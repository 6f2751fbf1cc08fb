"""The certificate with which a key manager shows itself to nodes: issued by its own CA, for serverAuth alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmsd.ca import chain, making, request
from kmsd.ca.authority import Authority, check_signed
from kmsd.ca.ledger import Issued
from kmsd.ca.request import PublicKey

_LIFETIME: Final = timedelta(days=90)
_BACKDATE: Final = timedelta(minutes=5)
_CN_MOST: Final = 64


def issue(authority: Authority, public: PublicKey, names: Sequence[str]) -> x509.Certificate:
    """Issue a certificate for a server with these names and IP addresses. It is remembered like a node's, without a
    tenant. Waits for the token and the ledger. Raises what they say."""
    issuer, key = authority.signer.certificate, authority.signer.key
    now = datetime.now(UTC).replace(microsecond=0)
    begin = max(now - _BACKDATE, issuer.not_valid_before_utc)
    end = min(now + _LIFETIME, issuer.not_valid_after_utc)
    common = [x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if len(names[0]) <= _CN_MOST else []
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(common))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=not common)
        .add_extension(making.identifier(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(making.identifier_in(issuer), None, None), critical=False)
        .sign(key, making.hash_for(key))
    )
    check_signed(made, issuer)
    authority.ledger.record(
        Issued(
            made.serial_number,
            making.identifier_in(issuer),
            names[0],
            "",
            request.key_sha256(public),
            begin,
            end,
            made.public_bytes(Encoding.DER),
        )
    )
    return made


def shown_with(authority: Authority) -> tuple[x509.Certificate, ...]:
    """Return the certificates that a server shows behind its own: the CAs between it and a root that others trust. Of a
    CA that was rolled those with which its other keys signed the one that issues now: OpenSSL would choose among these
    and the root by itself, and whoever trusts the key before alone takes one of them only."""
    issuer = authority.signer.certificate
    crossed = tuple(
        each
        for each in authority.chain
        if chain.is_cross(each) and making.identifier_in(each) == making.identifier_in(issuer)
    )
    above, found = issuer, list[x509.Certificate]()
    while not chain.issued_by(above, above):
        found.append(above)
        above = next((each for each in authority.chain if each not in found and chain.issued_by(above, each)), issuer)
        if above is issuer:
            break
    return (*found, *crossed)


def names_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names and IP addresses of a server's certificate, in order."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in found)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
