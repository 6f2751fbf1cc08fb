"""The other end of a TLS connection: the names in its certificate, and patterns that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from kmsd.errors import short
from kmsd.transport.caller import word
from kmsd.unreadable import X509_UNREADABLE

_NAMES_MOST: Final = 32
"""Names that one certificate may have; one with more is refused."""
_NAME_MOST: Final = 512
"""Characters that one name of a certificate may have."""
_DNS: Final = re.compile(r"(\*|[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s*]+(/\*|(/[^\s*]+))*", re.IGNORECASE)


@dataclass(frozen=True)
class Peer:
    """The other end of a TLS connection, as far as that connection proves it.

    address: IP address and port. names: as "DNS:name" and "URI:uri", from the certificate's subjectAltName (RFC 5280
    4.2.1.6). serial: number of the certificate in lower hexadecimal. issuer: DER of the issuer's name. not_before,
    not_after: Unix seconds. version, cipher: those of TLS, as OpenSSL names them. group: name of the group of the key
    exchange, as the TLS registry has it; empty if it is not known.
    """

    address: str
    names: tuple[str, ...]
    serial: str
    issuer: bytes
    not_before: float
    not_after: float
    version: str
    cipher: str
    group: str

    @property
    def pid(self) -> int:
        return 0

    @property
    def name(self) -> str:
        """The name that the peer is called by; empty if it has none."""
        return self.names[0] if self.names else ""

    def told(self, claim: str) -> str:
        """Return the peer in words. claim: the name that the program gives itself; all else is proven."""
        return f"{word(claim) or '-'} san={word(self.name) or '-'} serial={self.serial} address={self.address}"


def peer_of(certificate: bytes, address: str, version: str, cipher: str, group: str) -> Peer:
    """Return what a certificate (DER) that was verified says of its owner.

    address, version, cipher, group: as `Peer` has them. Raises ValueError if the certificate cannot be read, or has too
    many names, or one that is too long or cannot be printed.
    """
    names: list[str] = []
    try:
        read = x509.load_der_x509_certificate(certificate)
        issuer = read.issuer.public_bytes()
        extension = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        extension = None
    except X509_UNREADABLE as error:
        raise ValueError("it cannot be read") from error
    if extension is not None:
        names += [f"DNS:{name.lower()}" for name in extension.get_values_for_type(x509.DNSName)]
        names += [f"URI:{name}" for name in extension.get_values_for_type(x509.UniformResourceIdentifier)]
    if len(names) > _NAMES_MOST or any(len(name) > _NAME_MOST or not name.isprintable() for name in names):
        raise ValueError("its subjectAltName has too many names, or one that is too long or cannot be printed")
    return Peer(
        address=address,
        names=tuple(names),
        serial=f"{read.serial_number:x}",
        issuer=issuer,
        not_before=read.not_valid_before_utc.timestamp(),
        not_after=read.not_valid_after_utc.timestamp(),
        version=version,
        cipher=cipher,
        group=group,
    )


@dataclass(frozen=True)
class NamePattern:
    """A name, or a family of names that differ where it has a `*`.

    text: for example "DNS:*.cluster-a.test" or "URI:spiffe://a/kms/*".
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """Parse the pattern of a DNS name or of a URI. Raises ValueError if the text is neither.

        A `*` may stand for the first label of a DNS name, and for whole segments of the path of a URI.
        """
        kind, _, value = text.partition(":")
        if kind == "DNS" and _DNS.fullmatch(value.lower()) and value != "*":
            return cls(f"DNS:{value.lower()}")
        if kind == "URI" and _URI.fullmatch(value):
            return cls(text)
        raise ValueError(
            "a SAN must be DNS:name or URI:uri, with * for the first label of the name or for segments of the path, "
            f"got {short(text)}"
        )

    def fits(self, name: str) -> bool:
        """Return whether this name, which a certificate has, fits the pattern."""
        return self._agrees(self._parts(self.text), self._parts(name), either=False)

    def overlaps(self, other: NamePattern) -> bool:
        """Return whether some name fits both patterns."""
        return self._agrees(self._parts(self.text), self._parts(other.text), either=True)

    @staticmethod
    def _agrees(mine: list[str], theirs: list[str], *, either: bool) -> bool:
        return len(mine) == len(theirs) and all(
            a == b or (a == "*" and bool(b)) or (either and b == "*" and bool(a))
            for a, b in zip(mine, theirs, strict=True)
        )

    @staticmethod
    def _parts(text: str) -> list[str]:
        kind, _, value = text.partition(":")
        return [kind, *(value.split(".") if kind == "DNS" else value.split("/"))]


def fitting(patterns: Iterable[NamePattern], peer: Peer) -> bool:
    """Return whether one of a peer's names fits one of the patterns."""
    return any(pattern.fits(name) for pattern in patterns for name in peer.names)
