"""Taking a private key that signs into the token from outside. Each function runs on a thread with a session.

The token gets it wrapped for a key of its own, so that the key itself never passes through its interface; one that
unwraps nothing gets it as it is. Either way the key was outside once, which the token says of it for good: CKA_LOCAL,
CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE are false.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from kmsd.errors import InvalidRequest
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.cryptoki import Template
from kmsd.hsm.host.keys import CURVES, begin, make_object
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.host.signing import SigningKind, check_id, templates
from kmsd.hsm.operation import Operation, operation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

PRIVATE_MOST: Final = 16 * 1024
"""Bytes of a private key as PKCS#8."""
_TRANSPORT_BITS: Final = 2048
_CANNOT: Final = frozenset(
    {
        *("CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID", "CKR_FUNCTION_NOT_SUPPORTED"),
        *("CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_ARGUMENTS_BAD", "CKR_TEMPLATE_INCONSISTENT"),
        *("CKR_ATTRIBUTE_VALUE_INVALID", "CKR_ATTRIBUTE_TYPE_INVALID", "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT"),
        *("CKR_WRAPPED_KEY_INVALID", "CKR_WRAPPED_KEY_LEN_RANGE"),
    }
)
"""The answers of a token that does not unwrap in this way."""


@operation(Operation.IMPORT_SIGNING_KEY, changes=True)
def take_in(session: TokenSession, until: float, label: str, cka_id: bytes, private: bytes) -> bool:
    """Make a key pair of a private key from outside, as `signing.generate` makes one; return whether the token got it
    wrapped. `session` is read-write. until: see `begin`. private: PKCS#8 as DER, unencrypted. Raises InvalidRequest,
    CkrError."""
    # It takes memory that no other operation needs.
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    begin(until)
    check_id(cka_id)
    key = load_der_private_key(private, None) if len(private) <= PRIVATE_MOST else None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidRequest("only RSA and EC keys sign", "")
    kind: SigningKind = "ec" if isinstance(key, ec.EllipticCurvePrivateKey) else "rsa"
    public, whole = templates(label, cka_id, kind, key.key_size)
    whole = {**whole, c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_KEY_TYPE: c.CKK_EC if kind == "ec" else c.CKK_RSA}
    wrapped = True

    def make() -> None:
        nonlocal wrapped
        made = _unwrapped(session, private, whole)
        wrapped = made is not None
        if made is None:
            made = calls.create_object(session.cryptoki.table, session.handle, {**whole, **_parts(key)})
        try:
            calls.create_object(session.cryptoki.table, session.handle, _public(key, public))
        except CkrError:
            calls.destroy_object(session.cryptoki.table, session.handle, made)
            raise

    make_object(session, cka_id, kind, make)
    return wrapped


def _unwrapped(session: TokenSession, private: bytes, template: Template) -> int | None:
    """Have the token unwrap a private key: an AES key for a key pair of the session (RFC 8017, 7.1), and the private
    key for that (RFC 5649). Return its handle; None if the token does not do that. Raises CkrError."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

    table = session.cryptoki.table
    made: list[int] = []
    passing: Template = {c.CKA_TOKEN: False, c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_EXTRACTABLE: False}
    try:
        size: Template = {c.CKA_MODULUS_BITS: _TRANSPORT_BITS, c.CKA_PUBLIC_EXPONENT: b"\x01\x00\x01"}
        pair = calls.generate_key_pair(
            *(table, session.handle, c.CKM_RSA_PKCS_KEY_PAIR_GEN),
            {c.CKA_TOKEN: False, **size, c.CKA_ENCRYPT: True, c.CKA_WRAP: True},
            {**passing, c.CKA_UNWRAP: True, c.CKA_DECRYPT: True},
        )
        made.extend(pair)
        told = session.cryptoki.attributes(session.handle, pair[0], (c.CKA_MODULUS,))
        modulus = int.from_bytes(told.get(c.CKA_MODULUS, b""), "big")
        key = os.urandom(32)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - what all tokens take
        sealed = rsa.RSAPublicNumbers(65537, modulus).public_key().encrypt(key, oaep)
        params = c.RsaOaepParams(c.CKM_SHA_1, c.CKG_MGF1_SHA1, c.CKZ_DATA_SPECIFIED, None, 0)
        aes: Template = {**passing, c.CKA_CLASS: c.CKO_SECRET_KEY, c.CKA_KEY_TYPE: c.CKK_AES, c.CKA_UNWRAP: True}
        made.append(calls.unwrap_key(table, session.handle, pair[1], c.CKM_RSA_PKCS_OAEP, params, sealed, aes))
        wrapped = aes_key_wrap_with_padding(key, private)
        for mechanism in (c.CKM_AES_KEY_WRAP_KWP, c.CKM_AES_KEY_WRAP_PAD):
            try:
                return calls.unwrap_key(table, session.handle, made[-1], mechanism, None, wrapped, template)
            except CkrError as error:
                if error.name not in _CANNOT:
                    raise
    except CkrError as error:
        if error.name not in _CANNOT:
            raise
    except ValueError:
        return None  # what the token told is no public key
    finally:
        for handle in made:
            calls.destroy_object(table, session.handle, handle)
    return None


def _parts(key: Private) -> Template:
    """Return the attributes that are secret, for a token that unwraps nothing."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        value = key.private_numbers().private_value.to_bytes(size, "big")
        return {c.CKA_EC_PARAMS: CURVES[key.key_size], c.CKA_VALUE: value}
    numbers = key.private_numbers()
    return {
        c.CKA_MODULUS: _bytes(numbers.public_numbers.n),
        c.CKA_PUBLIC_EXPONENT: _bytes(numbers.public_numbers.e),
        c.CKA_PRIVATE_EXPONENT: _bytes(numbers.d),
        c.CKA_PRIME_1: _bytes(numbers.p),
        c.CKA_PRIME_2: _bytes(numbers.q),
        c.CKA_EXPONENT_1: _bytes(numbers.dmp1),
        c.CKA_EXPONENT_2: _bytes(numbers.dmq1),
        c.CKA_COEFFICIENT: _bytes(numbers.iqmp),
    }


def _public(key: Private, template: Template) -> Template:
    """Return the template of the public half."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    whole: Template = {**template, c.CKA_CLASS: c.CKO_PUBLIC_KEY}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        length = bytes([len(point)]) if len(point) < 0x80 else bytes([0x81, len(point)])
        return {**whole, c.CKA_KEY_TYPE: c.CKK_EC, c.CKA_EC_POINT: b"\x04" + length + point}
    numbers = key.public_key().public_numbers()
    told = {each: value for each, value in whole.items() if each != c.CKA_MODULUS_BITS}
    return {
        **told,
        c.CKA_KEY_TYPE: c.CKK_RSA,
        c.CKA_MODULUS: _bytes(numbers.n),
        c.CKA_PUBLIC_EXPONENT: _bytes(numbers.e),
    }


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
