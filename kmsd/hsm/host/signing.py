"""Key pairs that sign: making them, signing with them, and their public halves. Each function runs on a thread with a
session.

Which they are is told by their CKA_ID (`kmsd.hsm.purpose`): no other key signs, whatever its attributes allow.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from kmsd.errors import Conflict, Internal
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.cryptoki import Template
from kmsd.hsm.host.keys import CURVES, SECRET, TokenKey, begin, make_object, new_object, objects, signs
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession, rsa_numbers_of
from kmsd.hsm.operation import Operation, operation

SigningKind = Literal["ec", "rsa"]
DATA_MOST: Final = 128
"""Bytes that are signed at once: a hash, or one in a DigestInfo."""
_SIGNATURE_MOST: Final = 1024
"""Bytes of the longest signature: that of an RSA key of 8192 bits."""
_HALVES_MOST: Final = 64
"""Public objects with one CKA_ID that are looked at. Anybody who reaches the token can make them."""


class PublicHalf(NamedTuple):
    """A public key as a token tells it. An EC key has params (the curve's object identifier as DER) and a point
    (uncompressed, in an OCTET STRING or as it is), an RSA key has numbers: modulus and exponent, big-endian."""

    params: bytes = b""
    point: bytes = b""
    modulus: bytes = b""
    exponent: bytes = b""


@operation(Operation.GENERATE_SIGNING_KEY, changes=True)
def generate(session: TokenSession, until: float, label: str, cka_id: bytes, kind: SigningKind, bits: int) -> TokenKey:
    """Make a key pair that signs, and read it back. `session` is read-write. until: see `begin`.

    Private half: TOKEN, PRIVATE, SENSITIVE and not EXTRACTABLE, SIGN and nothing else. Raises CkrError.
    """
    begin(until)
    check_id(cka_id)
    return make_pair(session, label, cka_id, kind, bits)


def make_pair(session: TokenSession, label: str, cka_id: bytes, kind: SigningKind, bits: int) -> TokenKey:
    """Make a key pair as `generate` has it, whatever it is for, and read it back. Raises CkrError."""
    public, private = templates(label, cka_id, kind, bits)
    mechanism = c.CKM_EC_KEY_PAIR_GEN if kind == "ec" else c.CKM_RSA_PKCS_KEY_PAIR_GEN
    table = session.cryptoki.table
    return make_object(
        session, cka_id, kind, lambda: calls.generate_key_pair(table, session.handle, mechanism, public, private)
    )


def templates(label: str, cka_id: bytes, kind: SigningKind, bits: int) -> tuple[Template, Template]:
    """Return the templates of a public and a private key."""
    both = new_object(label, cka_id)
    private: Template = {**both, **SECRET, c.CKA_SIGN: True, c.CKA_UNWRAP: False}
    if kind == "ec":
        public: Template = {**both, c.CKA_EC_PARAMS: CURVES[bits], c.CKA_VERIFY: True}
        return public, {**private, c.CKA_DERIVE: False, c.CKA_DECRYPT: False}
    size: Template = {c.CKA_MODULUS_BITS: bits, c.CKA_PUBLIC_EXPONENT: b"\x01\x00\x01"}
    public = {**both, **size, c.CKA_VERIFY: True, c.CKA_ENCRYPT: False, c.CKA_WRAP: False}
    return public, {**private, c.CKA_DECRYPT: False}


@operation(Operation.SIGN)
def sign(session: TokenSession, cka_id: bytes, kind: SigningKind, data: bytes) -> bytes:
    """Sign a hash (EC; r and s come one after the other) or a DigestInfo (RSA). Whoever asks checks the signature with
    the public key. Raises CkrError, KeyMissingError, KeyAmbiguousError."""
    check_id(cka_id)
    if len(data) > DATA_MOST:
        raise Internal(f"{len(data)} bytes are no hash, at most {DATA_MOST} are signed")
    if c.CKA_PRIVATE not in session.trusted(cka_id) or not session.is_private(session.key(cka_id, kind)):
        raise KeyMissingError(cka_id, kind)
    return session.sign(cka_id, kind, data, _SIGNATURE_MOST)


@operation(Operation.LIST_PUBLIC_HALVES)
def public_halves(session: TokenSession, cka_id: bytes, kind: SigningKind) -> list[PublicHalf]:
    """Return what may be the public half of the one private key with this CKA_ID. Of an EC key these are public
    objects, which anybody may have made: a signature shows which is the one. Raises CkrError, KeyMissingError,
    KeyAmbiguousError."""
    check_id(cka_id)
    found = objects(session, {c.CKA_ID: cka_id}, kind)
    if not found:
        session.check_login()
        raise KeyMissingError(cka_id, kind)
    if len(found) > 1:
        raise KeyAmbiguousError(cka_id, kind)
    if kind == "rsa":
        numbers = rsa_numbers_of(session, found[0][0])
        size = (numbers.modulus.bit_length() + 7) // 8
        return [PublicHalf(modulus=numbers.modulus.to_bytes(size, "big"), exponent=numbers.exponent.to_bytes(8, "big"))]
    return ec_halves(session, cka_id)


def ec_halves(session: TokenSession, cka_id: bytes) -> list[PublicHalf]:
    """Return the public objects of EC keys with this CKA_ID, which anybody may have made. Raises CkrError."""
    template: Template = {c.CKA_CLASS: c.CKO_PUBLIC_KEY, c.CKA_KEY_TYPE: c.CKK_EC, c.CKA_TOKEN: True, c.CKA_ID: cka_id}
    halves = []
    for handle in session.cryptoki.find(session.handle, template)[:_HALVES_MOST]:
        try:
            told = session.cryptoki.attributes(session.handle, handle, (c.CKA_EC_PARAMS, c.CKA_EC_POINT))
        except CkrError:
            continue  # somebody has just deleted it
        halves.append(PublicHalf(params=told.get(c.CKA_EC_PARAMS, b""), point=told.get(c.CKA_EC_POINT, b"")))
    return halves


def check_id(cka_id: bytes) -> None:
    """Raise Conflict unless a key with this CKA_ID signs."""
    if not signs(cka_id):
        raise Conflict(
            "only keys that kmsd made for signing sign, and this key's id says that it is none of them",
            "kmsctl keys list -o wide shows what each key is for",
        )
