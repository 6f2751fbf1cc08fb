"""Look at a certification request (PKCS#10, RFC 2986): what is wrong with it, and what it asks for beyond the profile.

Nothing of a request goes into a certificate but its public key. What it asks for is read all the same, so that whoever
wants more than there is hears why, instead of getting something else.
"""

from __future__ import annotations

import hashlib
from math import gcd, prod
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from kmsd.ca.profile import KEY_TYPES
from kmsd.errors import InvalidRequest, KmsdError, short
from kmsd.unreadable import X509_UNREADABLE

MOST: Final = 16 * 1024
"""Bytes of the longest request that is read; one with an RSA key of 4096 bits has less than 2 KiB."""
_CURVES: Final[dict[str, str]] = {"secp256r1": "ec-p256", "secp384r1": "ec-p384", "secp521r1": "ec-p521"}
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_F4: Final = 65537
_SMALL: Final = prod(n for n in range(3, 4000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2)))
"""The odd primes below 4000: no RSA key that was made properly has one of them."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def parse(data: bytes) -> x509.CertificateSigningRequest:
    """Read a request, as DER or PEM. Raises InvalidRequest."""
    if len(data) > MOST:
        raise InvalidRequest(
            f"a request must have {MOST} bytes at most, got {len(data)}", "send one PKCS#10 request, and nothing else"
        )
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except X509_UNREADABLE as error:
        raise InvalidRequest(
            "this is no certification request (PKCS#10) as DER or PEM", "make one: openssl req -new -key KEY"
        ) from error


def public_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    """Return the public key that a request is for, once it is clear that whoever made it has the private one, and that
    the key is none that gives itself away. Raises InvalidRequest."""
    try:
        key = csr.public_key()
        algorithm = csr.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused("it has a key or a signature of a kind that is not known", "use an EC or RSA key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _refused("its key is neither an EC nor an RSA key", f"use one of {', '.join(KEY_TYPES)}")
    if not isinstance(algorithm, _HASHES):
        raise _refused(
            f"it is signed with {algorithm.name if algorithm is not None else 'no hash'}", "use SHA-256 or longer"
        )
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key.public_numbers())
    try:
        sound = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        sound = False
    if not sound:
        raise _refused("its signature is broken: nothing shows that its sender has the key", "make it anew")
    return key


def _check_rsa(numbers: rsa.RSAPublicNumbers) -> None:
    if numbers.e < _F4 or numbers.e % 2 == 0:
        raise _refused(f"its RSA key has the exponent {short(str(numbers.e))}", f"use {_F4}")
    if numbers.n % 2 == 0 or gcd(numbers.n, _SMALL) != 1:
        raise _refused("its RSA key is weak: small numbers divide it", "make another key")


def key_type(key: PublicKey) -> str:
    """Return the type of a key as profiles name it; another word for one that none can name."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    return _CURVES.get(key.curve.name, f"ec-{key.curve.name}")


def key_sha256(key: PublicKey) -> bytes:
    """Return the hash by which a public key is known."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def check_asked(csr: x509.CertificateSigningRequest, node: str, names: tuple[str, ...]) -> None:
    """Raise InvalidRequest for what a request asks for that the certificate of this node will not have.

    names: what it will have.
    """
    try:
        subject = csr.subject
    except X509_UNREADABLE as error:
        raise _refused("its subject cannot be read") from error
    _check_subject(subject, node, names)
    try:
        attributes = list(csr.attributes)
    except ValueError as error:
        raise _refused("its attributes cannot be read, or one is there twice") from error
    for attribute in attributes:
        if attribute.oid == AttributeOID.CHALLENGE_PASSWORD:
            raise _refused(
                "it has a challengePassword, which can be checked against no TLS 1.3 connection (RFC 7030, 3.5)",
                "leave it out",
            )
        if attribute.oid.dotted_string != _EXTENSION_REQUEST:
            raise _refused(f"it has an attribute that is not known, {attribute.oid.dotted_string}", "leave it out")
    try:
        extensions = list(csr.extensions)
    except X509_UNREADABLE as error:
        raise _refused("its extensions cannot be read, or one is there twice") from error
    for extension in extensions:
        _check_extension(extension, names)


_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"


def names_in(san: x509.SubjectAlternativeName) -> tuple[str, ...]:
    """Return the names of an extension as "DNS:name", "URI:uri" and, of any other kind, that kind's name."""
    found = []
    for each in san:
        match each:
            case x509.DNSName():
                found.append(f"DNS:{each.value.lower()}")
            case x509.UniformResourceIdentifier():
                found.append(f"URI:{each.value}")
            case _:
                found.append(f"{type(each).__name__}:{short(str(each.value))}")
    return tuple(found)


def _check_subject(subject: x509.Name, node: str, names: tuple[str, ...]) -> None:
    bare = {name.partition(":")[2] for name in names}
    for attribute in subject:
        value = attribute.value if isinstance(attribute.value, str) else ""
        if attribute.oid != NameOID.COMMON_NAME or value.lower() not in {node, *bare}:
            raise _refused(
                f"its subject has {attribute.oid.dotted_string}={short(value)}, and certificates here have "
                f"CN={node} and nothing else",
                f"use -subj /CN={node}, or an empty subject",
            )


def _check_extension(extension: x509.Extension[x509.ExtensionType], names: tuple[str, ...]) -> None:
    match extension.value:
        case x509.SubjectAlternativeName() as san:
            _check_san(names_in(san), names)
        case x509.BasicConstraints() as constraints:
            if constraints.ca:
                raise _refused("it asks to be a CA (CA:TRUE)", "no node is one")
        case x509.KeyUsage() as usage:
            wanted = [name for name in _USAGES if getattr(usage, name)]
            if wanted != ["digital_signature"]:
                asked = ", ".join(wanted) or "none"
                raise _refused(f"it asks for the key usages {asked}, and a node's key signs (digitalSignature)")
        case x509.ExtendedKeyUsage() as purposes:
            others = [each.dotted_string for each in purposes if each != ExtendedKeyUsageOID.CLIENT_AUTH]
            if others:
                raise _refused(f"it asks for the purpose {others[0]}, and a node's certificate is for clientAuth")
        case x509.SubjectKeyIdentifier():
            pass  # certificates have their own, made of the key
        case _:
            raise _refused(f"it asks for the extension {extension.oid.dotted_string}", "leave it out")


def _check_san(asked: tuple[str, ...], names: tuple[str, ...]) -> None:
    others = [name for name in asked if name not in names]
    if others:
        raise _refused(
            f"it asks for the name {short(others[0])}, and this node gets {', '.join(names)}",
            "ask for those, or for none: the configuration says which names a node has",
        )


_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign"),
)


def _refused(why: str, hint: str = "make another request") -> KmsdError:
    return InvalidRequest(f"the request is refused: {why}", hint)
