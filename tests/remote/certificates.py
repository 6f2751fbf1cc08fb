"""A CA for tests, and certificates of every kind that it may issue, as files."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """certificate, key: PEM files."""

    certificate: Path
    key: Path

    @property
    def read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    @property
    def serial(self) -> str:
        return f"{self.read.serial_number:x}"


class Authority:
    """A CA whose certificate lies at `file`."""

    def __init__(self, folder: Path, name: str = "Test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / "ca.crt"
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(self.key, hashes.SHA256())
        )
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def key_pem(self) -> bytes:
        return self.key.private_bytes(*_PKCS8)

    def issue(
        self,
        name: str,
        *sans: str,
        server: bool = False,
        usages: Sequence[x509.ObjectIdentifier] | None = None,
        begins: timedelta = -HOUR,
        ends: timedelta = timedelta(days=90),
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
    ) -> Issued:
        """Issue a certificate, in files called so.

        sans: as "DNS:name", "URI:uri", "IP:address". server: whether for servers; usages: in place of that. begins,
        ends: from now. public: of a key that is elsewhere; the one in the file is another then.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(public or key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_name, sans))), critical=False)
        usages = ((SERVER if server else CLIENT),) if usages is None else usages
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        issued = Issued(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        _put(issued.key, key.private_bytes(*_PKCS8), 0o600)
        _put(issued.certificate, pem, 0o644)
        return issued

    def crl(self, *revoked: Issued) -> bytes:
        """Return a CRL of this CA, as PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now - HOUR)
        builder = builder.next_update(now + 24 * HOUR)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.read.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


_PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def _put(path: Path, data: bytes, mode: int) -> None:
    """Replace the file whole, as a tool that renews certificates does."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode)
    fresh.chmod(mode)
    fresh.write_bytes(data)
    fresh.replace(path)


def _name(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    match kind:
        case "DNS":
            return x509.DNSName(value)
        case "IP":
            return x509.IPAddress(ipaddress.ip_address(value))
        case _:
            return x509.UniformResourceIdentifier(value)
