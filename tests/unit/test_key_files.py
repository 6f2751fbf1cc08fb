"""Files of keys are read as kube-apiserver reads what --service-account-key-file names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import key_files
from kmsd.jwt.public_key import verifying

EC, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
KIDS = {id(each): verifying(each.public_key()).kid for each in (EC, RSA)}
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, form: PrivateFormat, password: bytes = b"") -> bytes:
    return key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password) if password else NoEncryption())


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sa")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return built.sign(key, SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (public(EC), [(EC, False)]),
        (public(RSA).replace(b"\n", b"\r\n"), [(RSA, False)]),
        (certificate(EC), [(EC, False)]),
        (private(RSA, PrivateFormat.TraditionalOpenSSL), [(RSA, True)]),
        (private(EC, PrivateFormat.PKCS8), [(EC, True)]),
        (PARAMETERS + private(EC, PrivateFormat.TraditionalOpenSSL), [(EC, True)]),
        (public(EC) + b"# a text between\n" + private(EC, PrivateFormat.PKCS8), [(EC, True)]),
        (public(ed25519.Ed25519PrivateKey.generate()) + public(RSA).rstrip(), [(RSA, False)]),
        (private(EC, PrivateFormat.PKCS8, b"secret") + public(RSA), [(RSA, False)]),
        (public(EC)[:60] + b"\n" + public(RSA), [(RSA, False)]),
    ],
    ids=["public", "crlf", "certificate", "pkcs1", "pkcs8", "parameters", "both", "ed25519", "encrypted", "cut off"],
)
def test_the_keys_of_a_file_have_the_ids_that_tokens_name(
    tmp_path: Path, text: bytes, found: list[tuple[object, bool]]
) -> None:
    path = tmp_path / "sa.pem"
    path.write_bytes(text)
    assert list(key_files.kids(str(path)).items()) == [(KIDS[id(key)], is_private) for key, is_private in found]


@pytest.mark.parametrize("text", [b"", b"\x00" * 100, PARAMETERS, private(EC, PrivateFormat.PKCS8, b"secret")])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "sa.pem"
    path.write_bytes(text)
    with pytest.raises(UsageError, match="holds no RSA or EC key"):
        key_files.kids(str(path))
