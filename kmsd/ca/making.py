"""Make certificates and lists of revocations with `cryptography`: what is in them, by RFC 5280. Pure but for chance."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmsd.ca.ledger import Issued, Reason
from kmsd.ca.request import PublicKey
from kmsd.errors import InvalidRequest, short

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""A private key that signs, wherever it is."""
ROOT_LIFETIME: Final = timedelta(days=3652)
_EXAMPLE: Final = 'for example --subject "CN=Nodes CA,O=Example"'
_CN_MOST: Final = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""
_REASONS: Final[dict[Reason, x509.ReasonFlags]] = {
    "keyCompromise": x509.ReasonFlags.key_compromise,
    "affiliationChanged": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessationOfOperation": x509.ReasonFlags.cessation_of_operation,
    "privilegeWithdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""Not "unspecified": RFC 5280, 5.3.1, says to leave that out."""


def subject_of(text: str) -> x509.Name:
    """Read a distinguished name such as "CN=Kubernetes KMS,O=Example" (RFC 4514). Raises InvalidRequest."""
    try:
        name = x509.Name.from_rfc4514_string(text)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"a subject must be a distinguished name, got {short(text)}",
            'for example --subject "CN=Nodes CA,O=Example"',
        ) from error
    if not list(name):
        raise InvalidRequest("a CA must have a subject", _EXAMPLE)
    return name


def hash_for(key: CaKey | PublicKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """Return the hash that is as strong as a key."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        size = key.curve.key_size
        return hashes.SHA512() if size > 384 else hashes.SHA384() if size > 256 else hashes.SHA256()
    return hashes.SHA256()


def identifier(key: PublicKey) -> x509.SubjectKeyIdentifier:
    """Return the subject key identifier of a key that has none in a certificate yet."""
    return x509.SubjectKeyIdentifier.from_public_key(key)


def identifier_in(certificate: x509.Certificate) -> bytes:
    """Return the subject key identifier of a CA, as its certificate has it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def authority_request(key: CaKey, subject: x509.Name) -> x509.CertificateSigningRequest:
    """Make the request with which a CA above is asked for a certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(identifier(key.public_key()), critical=False)
    for extension, critical in _ca_extensions():
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hash_for(key))


def authority_certificate(
    public: PublicKey, subject: x509.Name, signer: CaKey, issuer: x509.Certificate | None, now: datetime, end: datetime
) -> x509.Certificate:
    """Make the certificate of a CA. issuer: of the key that signs it; None: it signs itself. end: at the latest."""
    made = identifier(public)
    last = end if issuer is None else min(end, issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(last)
        .add_extension(made, critical=False)
        .add_extension(_issuer_identifier(made.digest if issuer is None else identifier_in(issuer)), critical=False)
    )
    for extension, critical in _ca_extensions():
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hash_for(signer))


def node_certificate(
    public: PublicKey,
    node: str,
    names: Iterable[str],
    signer: CaKey,
    issuer: x509.Certificate,
    begin: datetime,
    end: datetime,
    crl_url: str,
) -> x509.Certificate:
    """Make the certificate of a node, for clientAuth alone."""
    fits = len(node) <= _CN_MOST
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)] if fits else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        # RFC 5280, 4.2.1.6: critical if the subject is empty.
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=not fits)
        .add_extension(identifier(public), critical=False)
        .add_extension(_issuer_identifier(identifier_in(issuer)), critical=False)
    )
    if crl_url:
        at = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([at]), critical=False)
    return builder.sign(signer, hash_for(signer))


def revocation_list(
    revoked: Iterable[Issued], number: int, signer: CaKey, issuer: x509.Certificate, now: datetime, until: datetime
) -> x509.CertificateRevocationList:
    """Make the list of revoked certificates (RFC 5280, 5). until: when the next one must be had."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(until)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issuer_identifier(identifier_in(issuer)), critical=False)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(each.revoked_at or now)
        if each.reason in _REASONS:
            entry = entry.add_extension(x509.CRLReason(_REASONS[each.reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer, hash_for(signer))


def _general(name: str) -> x509.GeneralName:
    kind, _, value = name.partition(":")
    return x509.DNSName(value) if kind == "DNS" else x509.UniformResourceIdentifier(value)


def _issuer_identifier(digest: bytes) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(digest, None, None)


def _ca_extensions() -> tuple[tuple[x509.ExtensionType, bool], ...]:
    # Path length 0: nothing that it signs is a CA, but itself with another key, which does not count (RFC 5280, 6.1).
    return (x509.BasicConstraints(ca=True, path_length=0), True), (_usage(key_cert_sign=True, crl_sign=True), True)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
