"""The files of a node: its key, its certificate and the CAs, replaced so that a crash at any moment loses nothing.

New files are whole beside the old ones (`.tls.key.new`) before any is replaced. If a crash leaves a new key beside an
old certificate, `settle` finishes what was begun.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from kmsd import plainfile
from kmsd.errors import InvalidRequest, Misconfigured
from kmsd.est import client
from kmsd.est.client import Server
from kmsd.unreadable import X509_UNREADABLE

RENEW_AT: Final = 2 / 3
"""The part of its lifetime after which a certificate is renewed."""
_MOST: Final = 1024 * 1024
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "ec-p256": ec.SECP256R1, "ec-p384": ec.SECP384R1, "ec-p521": ec.SECP521R1,
}  # fmt: skip
NodeKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class NodeStore(Protocol):
    """The certificate of a node, its key, wherever that is, and the CAs: each method as of `NodeFiles`, and with an
    OSError for a file that cannot be read or written, a KmsdError for a token."""

    @property
    def certificate(self) -> Path:
        """Return the path of the certificate."""

    @property
    def authorities(self) -> Path:
        """Return the path of the CAs."""

    @property
    def written(self) -> tuple[Path, ...]:
        """Return the paths that are written."""

    def settle(self) -> None:
        """Finish a replacement that a crash has cut off."""

    def present(self) -> x509.Certificate | None:
        """Return the certificate that is there; None if there is none. Asks no token."""

    def has_key_of(self, certificate: x509.Certificate) -> bool:
        """Return whether the key of the certificate that is there can be used."""

    def next_key(self, key_type: str) -> NodeKey:
        """Return the key of a request that goes on, else a new one."""

    def put(
        self,
        certificate: x509.Certificate,
        authorities: Sequence[x509.Certificate] = (),
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        """Put the certificate and its key in the place of the old ones."""

    def keep(self, certificate: x509.Certificate, chain: Sequence[x509.Certificate] = ()) -> tuple[bytes, bytes]:
        """Write the certificate beside the old one; return it as PEM, and its key, or nothing for one on a token."""

    def kept(self) -> x509.Certificate | None:
        """Return the certificate that `keep` has written, with its key; None if there is none."""

    def drop(self) -> None:
        """Forget the request that goes on, and its key."""

    def again(self, server: Server, csr: bytes) -> x509.Certificate:
        """Ask for the certificate that follows the present one, which is shown."""

    def retire(self) -> None:
        """Destroy keys that no certificate needs any more."""


@dataclass(frozen=True)
class NodeFiles:
    """The paths of a node's files. For each there is a place for its successor."""

    key: Path
    certificate: Path
    authorities: Path

    @property
    def written(self) -> tuple[Path, ...]:
        """The paths that are written."""
        return self.key, self.certificate, self.authorities

    @classmethod
    def within(cls, folder: Path) -> NodeFiles:
        """Return the paths in a folder."""
        return cls(folder / "tls.key", folder / "tls.crt", folder / "ca.crt")

    def settle(self) -> None:
        """Finish a replacement that a crash has cut off between key and certificate. Raises OSError."""
        fresh = fresh_path(self.certificate)
        if fresh.exists() and not _fits(self.certificate, self.key) and _fits(fresh, self.key):
            fresh.replace(self.certificate)

    def present(self) -> x509.Certificate | None:
        """Return the certificate that is there with its key; None if either is missing or they do not fit."""
        return read_certificate(self.certificate) if _fits(self.certificate, self.key) else None

    def next_key(self, key_type: str) -> NodeKey:
        """Return the key of a request that goes on: the one that was kept for it, else a new one, which is kept until
        its certificate is there. Raises OSError, InvalidRequest."""
        fresh = fresh_path(self.key)
        kept = _read_key(fresh)
        if kept is not None and type_of(kept) == key_type:
            return kept
        made = make_key(key_type)
        write(fresh, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        return made

    def put(
        self,
        certificate: x509.Certificate,
        authorities: Sequence[x509.Certificate] = (),
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        """Put the certificate, and the key that `next_key` has kept, in the place of the old ones. authorities: none to
        leave that file alone. chain: certificates that are shown with it. Raises OSError."""
        self.keep(certificate, chain)
        if authorities:
            write(fresh_path(self.authorities), pem(authorities), 0o644)
            fresh_path(self.authorities).replace(self.authorities)
        fresh_path(self.key).replace(self.key)
        fresh_path(self.certificate).replace(self.certificate)
        for folder in {self.key.parent, self.certificate.parent}:
            sync(folder)

    def keep(self, certificate: x509.Certificate, chain: Sequence[x509.Certificate] = ()) -> tuple[bytes, bytes]:
        """Write the certificate beside the old one; return it and its key as PEM. Raises OSError."""
        data = pem([certificate, *chain])
        write(fresh_path(self.certificate), data, 0o644)
        return data, plainfile.read_input(fresh_path(self.key), _MOST)[0]

    def kept(self) -> x509.Certificate | None:
        """Return the certificate that `keep` has written, with its key; None if there is none."""
        fresh = fresh_path(self.certificate)
        return read_certificate(fresh) if _fits(fresh, fresh_path(self.key)) else None

    def has_key_of(self, certificate: x509.Certificate) -> bool:
        """Return True: `present` and `kept` show no certificate without its key."""
        return True

    def again(self, server: Server, csr: bytes) -> x509.Certificate:
        """Ask for the certificate that follows the present one, which is shown. Raises KmsdError."""
        return client.again(server, csr, self.certificate, self.key)

    def retire(self) -> None:
        """Do nothing: a key is gone with its file."""

    def drop(self) -> None:
        """Forget what was kept beside the old files. Raises OSError."""
        for each in (self.key, self.certificate):
            fresh_path(each).unlink(missing_ok=True)


def due(certificate: x509.Certificate, share: float = RENEW_AT) -> datetime:
    """Return when a certificate is to be renewed: after this share of its lifetime."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * share


def has_ended(certificate: x509.Certificate) -> bool:
    """Return whether a certificate has ended. One that has not begun has not: it may be made by a clock that is ahead
    of the one here."""
    return certificate.not_valid_after_utc <= datetime.now(UTC)


def in_force(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is in force now."""
    return certificate.not_valid_before_utc <= datetime.now(UTC) < certificate.not_valid_after_utc


def make_key(key_type: str) -> NodeKey:
    """Make a key of this type ("ec-p256", "rsa-3072"). Raises InvalidRequest."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    if key_type in ("rsa-2048", "rsa-3072", "rsa-4096"):
        return rsa.generate_private_key(65537, int(key_type[4:]))
    raise InvalidRequest(f"keys of type {key_type} are not made here", f"use {', '.join(_CURVES)} or rsa-3072")


def type_of(key: NodeKey) -> str:
    """Return the type of a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"rsa-{key.key_size}"
    return next((name for name, curve in _CURVES.items() if isinstance(key.curve, curve)), key.curve.name)


def request(key: NodeKey, node: str, like: x509.Certificate | None = None) -> bytes:
    """Return a request (PKCS#10) as DER for the key. like: a certificate whose subject and names are asked for again
    (RFC 7030 4.2.2); without one the subject is the node's name."""
    subject = like.subject if like is not None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if like is not None:
        with contextlib.suppress(x509.ExtensionNotFound):
            names = like.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            builder = builder.add_extension(names.value, names.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def fits(certificate: x509.Certificate, key: NodeKey) -> bool:
    """Return whether a certificate is for this key."""
    return _spki(certificate.public_key()) == _spki(key.public_key())


def _spki(key: object) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return found


def _fits(certificate: Path, key: Path) -> bool:
    cert, private = read_certificate(certificate), _read_key(key)
    return cert is not None and private is not None and fits(cert, private)


def read_certificate(path: Path) -> x509.Certificate | None:
    """Return the first certificate of a file (PEM); None if there is none."""
    try:
        return x509.load_pem_x509_certificate(plainfile.read_input(path, _MOST)[0])
    except (OSError, *X509_UNREADABLE):
        return None


def _read_key(path: Path) -> NodeKey | None:
    try:
        key = load_pem_private_key(plainfile.read_input(path, _MOST)[0], None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return certificates as PEM."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def fresh_path(path: Path) -> Path:
    """Return the place of what is to follow a file."""
    return path.with_name(f".{path.name}.new")


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with this mode from its first moment. Raises OSError."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Have on the disk what was renamed in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prepare(folder: Path) -> None:
    """Make the folder with mode 0700 if it is missing. Raises Misconfigured."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{folder} cannot be made: {error.strerror}", "choose another --out") from error
