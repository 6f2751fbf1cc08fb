"""A certificate authority with a key in memory, and requests of nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kmsd.ca import making
from kmsd.ca.authority import Authority, Signer
from kmsd.ca.ledger import MemoryLedger
from kmsd.ca.making import CaKey
from kmsd.ca.profile import Profile
from kmsd.transport.peers import NamePattern

TENANTS = {
    "cluster-a": (NamePattern.parse("DNS:*.a.test"),),
    "cluster-b": (NamePattern.parse("DNS:*.b.test"), NamePattern.parse("URI:spiffe://b/kms/*")),
}
ADMINS = (NamePattern.parse("DNS:ops.a.test"),)
PROFILE = Profile(tenants=TENANTS, admins=ADMINS)
SUBJECT = "CN=Nodes CA,O=Test"


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def root(key: CaKey, subject: str = SUBJECT, lifetime: timedelta = making.ROOT_LIFETIME) -> x509.Certificate:
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    return making.authority_certificate(key.public_key(), making.subject_of(subject), key, None, now, now + lifetime)


def authority(
    key: CaKey | None = None,
    profile: Profile = PROFILE,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    lifetime: timedelta = making.ROOT_LIFETIME,
) -> Authority:
    key = key or ec_key()
    return Authority([Signer(root(key, lifetime=lifetime), key)], profile, MemoryLedger(), now=now)


def csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    cn: str = "",
    names: Sequence[x509.GeneralName] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    attributes: Sequence[tuple[x509.ObjectIdentifier, bytes]] = (),
    hash_: hashes.HashAlgorithm | None = None,
) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    for oid, value in attributes:
        builder = builder.add_attribute(oid, value)
    return builder.sign(key or ec_key(), hash_ or hashes.SHA256())  # type: ignore[arg-type]


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def crl_pem(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def openssl_verify(
    folder: Path,
    leaf: x509.Certificate,
    trusted: Sequence[x509.Certificate],
    between: Sequence[x509.Certificate] = (),
    crls: Sequence[bytes] = (),
) -> tuple[bool, str]:
    """What `openssl verify` says of a certificate, strictly, as that of a TLS client; with crls checked against
    them."""
    (folder / "leaf.pem").write_bytes(pem(leaf))
    (folder / "trusted.pem").write_bytes(pem(*trusted))
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "trusted.pem"]
    if between:
        (folder / "between.pem").write_bytes(pem(*between))
        command += ["-untrusted", "between.pem"]
    if crls:
        (folder / "crl.pem").write_bytes(b"".join(map(crl_pem, crls)))
        command += ["-crl_check", "-CRLfile", "crl.pem"]
    done = subprocess.run([*command, "leaf.pem"], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode == 0, done.stdout + done.stderr
