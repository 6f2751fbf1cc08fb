"""Giving an identity to keys that other programs made without one. Each function runs on a thread with a session.

What may be adopted, and when, is decided above (`kmsd.lifecycle.adopting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from kmsd.errors import Conflict, InvalidRequest
from kmsd.hsm import calls
from kmsd.hsm import cryptoki as c
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.keys import Kind, TokenKey, objects, public_halves
from kmsd.hsm.session import BLOCK_BYTES, TokenSession

_MARK: Final = hashlib.sha256(b"kmsd: which key is this").digest()[:BLOCK_BYTES]
_SECRET: Final = (c.CKA_LOCAL, c.CKA_NEVER_EXTRACTABLE)
"""True of a key whose value nobody can know, for it was made on the token and could never leave it."""


def nameless(session: TokenSession, label: str, rsa: bool = False) -> tuple[TokenKey, ...]:
    """Return the AES and HMAC keys with this label that have no CKA_ID, with `rsa` the RSA private keys too. Raises
    CkrError."""
    kinds: tuple[Kind, ...] = ("aes", "rsa") if rsa else ("aes",)
    found = [
        key
        for kind in kinds
        for private in (True, False)
        for _, key in objects(session, {c.CKA_LABEL: label.encode(), c.CKA_PRIVATE: private}, kind)
    ]
    return tuple(key for key in found if key.kind != "other" and not key.cka_id)


def give_id(session: TokenSession, key: TokenKey, cka_id: bytes = b"") -> bytes:
    """Give a CKA_ID to the one key of this kind, label and privacy that has none, and return it. `session` is
    read-write.

    cka_id: empty for one that is derived from the key, so that several kmsd which do this at the same moment do the
    same. A public key becomes private, or nothing changes.
    Raises InvalidRequest, Conflict or CkrError.
    """
    named: dict[int, bytes | int | bool] = {c.CKA_LABEL: key.label.encode(), c.CKA_PRIVATE: key.private}
    same = objects(session, named, key.kind)
    found = [handle for handle, each in same if each.kind == key.kind and not each.cka_id]
    if len(found) != 1:
        raise InvalidRequest(
            f"{len(found)} keys labelled {key.label!r} lack a CKA_ID; exactly one is needed",
            "kmsctl keys list shows them",
        )
    (handle,) = found
    cka_id = cka_id or _derived(session, handle, key)
    if _with_id(session, key.kind, cka_id):
        raise Conflict(
            f"the CKA_ID that is for {key.label!r} is another key's already", "kmsctl keys list shows whose it is"
        )
    if key.private:
        for each in (*public_halves(session, handle, key.kind), handle):
            calls.set_attributes(session.cryptoki.table, session.handle, each, {c.CKA_ID: cka_id})
    else:
        _make_private(session, handle, key, cka_id)
    if len(_with_id(session, key.kind, cka_id)) != 1:
        raise Conflict(f"the token did not take the CKA_ID of {key.label!r}", "kmsctl keys list shows its state")
    return cka_id


def _with_id(session: TokenSession, kind: Kind, cka_id: bytes) -> list[int]:
    return [handle for handle, key in objects(session, {c.CKA_ID: cka_id}, kind) if key.kind == kind]


def _derived(session: TokenSession, handle: int, key: TokenKey) -> bytes:
    """A UUID of version 4 (RFC 9562, 5.4), which claims no time: when the key was made is not known."""
    told = _fingerprint(session, handle, key.kind)
    if told is None:
        return str(uuid4()).encode()
    digest = hashlib.sha256(b"\0".join((key.kind.encode(), key.label.encode(), told))).digest()
    return str(UUID(bytes=digest[:16], version=4)).encode()


def _fingerprint(session: TokenSession, handle: int, kind: Kind) -> bytes | None:
    """What the key makes of a constant, which tells it from any other key; None if the token does not say."""
    table, own = session.cryptoki.table, session.handle
    ways: tuple[Callable[[], bytes], ...]
    match kind:
        case "rsa":
            return b"%x" % session.rsa_numbers_of(handle).modulus
        case "hmac":
            ways = tuple(
                partial(calls.sign, table, own, handle, mechanism, _MARK)
                for mechanism in (c.CKM_SHA256_HMAC, c.CKM_SHA512_HMAC)
            )
        case _:
            ways = (
                partial(calls.encrypt, table, own, handle, c.CKM_AES_CBC, bytes(BLOCK_BYTES), _MARK),
                partial(calls.encrypt, table, own, handle, c.CKM_AES_ECB, None, _MARK),
            )
    for way in ways:
        try:
            return way()
        except CkrError:
            continue
    return None


def _make_private(session: TokenSession, handle: int, key: TokenKey, cka_id: bytes) -> None:
    """Put a private copy in the place of a public key: CKA_PRIVATE changes only in copies (PKCS#11 3.0, 5.7.2)."""
    table, own = session.cryptoki.table, session.handle
    if not _all_true(session, handle, _SECRET):
        raise Conflict(
            f"the key {key.label!r} is public, and its value may be known: it was not made on the token, or it could "
            "leave it",
            "rather make a new key: kmsctl keygen LABEL",
        )
    before = _fingerprint(session, handle, key.kind)
    copy = calls.copy_object(table, own, handle, {c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_ID: cka_id})
    alike = before is not None and _fingerprint(session, copy, key.kind) == before
    if not alike or not _all_true(session, copy, (c.CKA_PRIVATE, c.CKA_SENSITIVE, c.CKA_TOKEN)):
        calls.destroy_object(table, own, copy)
        raise Conflict(
            f"the token made no private copy of the public key {key.label!r} that works alike",
            "rather make a new key: kmsctl keygen LABEL",
        )
    calls.destroy_object(table, own, handle)


def _all_true(session: TokenSession, handle: int, attributes: tuple[int, ...]) -> bool:
    told = session.cryptoki.attributes(session.handle, handle, attributes)
    return all(told.get(attribute, b"\0") == b"\x01" for attribute in attributes)
