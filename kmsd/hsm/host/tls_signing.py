"""Signatures of TLS handshakes, by the one key pair that the address of the token names, whoever made it, or by one of
those that kmsd made under that name (`tls_keys`).

A host whose address names no key signs no handshake, and no host signs one with any other key.
"""

from __future__ import annotations

import sys
from ctypes import addressof, sizeof
from typing import Final, Literal

from kmsd.errors import Conflict, Internal, Misconfigured, NotFound
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host import tls_keys
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.purpose import signing_purpose

TlsHash = Literal["sha256", "sha384", "sha512"]
TlsKind = Literal["ec", "rsa"]
_PSS: Final[dict[TlsHash, tuple[int, int, int]]] = {
    "sha256": (c.CKM_SHA256, c.CKG_MGF1_SHA256, 32),
    "sha384": (c.CKM_SHA384, c.CKG_MGF1_SHA384, 48),
    "sha512": (c.CKM_SHA512, c.CKG_MGF1_SHA512, 64),
}
_KEY_TYPES: Final[dict[TlsKind, int]] = {"ec": c.CKK_EC, "rsa": c.CKK_RSA}
_SIGNATURE_MOST: Final = 1024
_NO_PSS: Final = frozenset({"CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID", "CKR_FUNCTION_NOT_SUPPORTED"})


@operation(Operation.SIGN_TLS)
def sign_tls(
    session: TokenSession, kind: TlsKind, hash_: TlsHash, digest: bytes, token: str, cka_id: bytes = b""
) -> bytes:
    """Sign a hash as TLS 1.3 wants it (RFC 8446, 4.2.3): ECDSA, as r and s one after the other, or RSASSA-PSS with a
    salt as long as the hash. kind: of the key of the certificate. Whoever asks checks the signature with that.
    token: in words. cka_id: of a key that kmsd made; empty for the key that the address names.

    Raises CkrError, NotFound, Misconfigured.
    """
    hash_id, mgf, size = _PSS[hash_]
    if len(digest) != size:
        raise Internal(f"{len(digest)} bytes are no hash by {hash_}")
    key = _made(session, cka_id, token) if cka_id else _key(session, kind, token)
    if kind == "ec":
        return session.sign_by(c.CkMechanism(c.CKM_ECDSA, None, 0), key, digest, _SIGNATURE_MOST)
    params = c.RsaPssParams(hash_id, mgf, size)
    mechanism = c.CkMechanism(c.CKM_RSA_PKCS_PSS, addressof(params), sizeof(params))
    try:
        return session.sign_by(mechanism, key, digest, _SIGNATURE_MOST)
    except CkrError as error:
        if error.name not in _NO_PSS:
            raise
        raise Misconfigured(
            f"{token} does not sign by RSASSA-PSS with {hash_.upper()} ({error.function}: {error.name}), which TLS "
            "1.3 wants of an RSA key",
            "make an EC key on it, P-256, and have a certificate issued for that",
        ) from error


def _made(session: TokenSession, cka_id: bytes, token: str) -> int:
    """Return the handle of a key that kmsd made. Raises NotFound."""
    for handle, key in tls_keys.made_keys(session):
        if key.cka_id == cka_id:
            return handle
    raise NotFound(f"the key of the certificate is not on {token} any more", "enrol anew: kmsctl enrol --server")


def _key(session: TokenSession, kind: TlsKind, token: str) -> int:
    """Return the handle of the key, looked for each time: handshakes are seldom, and a token may be changed."""
    named = session.tls_key
    if named is None:
        raise Conflict(f"{token} signs no TLS handshakes", "name its key in proxy.tls_key")
    template: dict[int, c.Value] = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True, c.CKA_PRIVATE: True}
    if named.label:
        template[c.CKA_LABEL] = named.label.encode()
    if named.cka_id:
        template[c.CKA_ID] = named.cka_id
    found = [(each, _told(session, each)) for each in session.cryptoki.find(session.handle, template, most=8)]
    # There are tokens that do not search by CKA_PRIVATE.
    private = [(handle, told) for handle, told in found if told.get(c.CKA_PRIVATE, b"\0") != b"\0"]
    if not private:
        session.check_login()
        raise NotFound(
            f"there is no private key {named} on {token}",
            "correct proxy.tls_key, or make the key with the token's own tool, private (CKA_PRIVATE); pkcs11-tool "
            "--login --list-objects shows what is there",
        )
    fitting = [(handle, told) for handle, told in private if _number(told, c.CKA_KEY_TYPE) == _KEY_TYPES[kind]]
    if not fitting:
        raise Misconfigured(
            f"the private key {named} on {token} is no {kind.upper()} key, and that of the certificate is one",
            "name the key of the certificate in proxy.tls_key, or have a certificate issued for the key",
        )
    if len(fitting) > 1:
        raise Misconfigured(
            f"{len(fitting)} private keys {named} are on {token}", "name one in proxy.tls_key, by object= and id="
        )
    handle, told = fitting[0]
    if signing_purpose(told.get(c.CKA_ID, b"")) is not None:
        raise Misconfigured(
            f"the private key {named} on {token} signs for kmsd itself, certificates or service account tokens",
            "make another key for the proxy",
        )
    return handle


def _told(session: TokenSession, handle: int) -> dict[int, bytes]:
    return session.cryptoki.attributes(session.handle, handle, (c.CKA_PRIVATE, c.CKA_KEY_TYPE, c.CKA_ID))


def _number(told: dict[int, bytes], attribute: int) -> int:
    raw = told.get(attribute, b"")
    return int.from_bytes(raw, sys.byteorder) if raw else -1
