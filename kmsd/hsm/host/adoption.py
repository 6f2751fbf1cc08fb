"""Giving an identity to keys that other programs made without one. Each function runs on a thread with a session.

What may be adopted, and when, is decided above (`kmsd.keys.lifecycle.adopting`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from kmsd.errors import Conflict, InvalidRequest
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.keys import Kind, TokenKey, begin, objects, public_halves
from kmsd.hsm.host.session import BLOCK_BYTES, TokenSession, rsa_numbers_of
from kmsd.hsm.operation import Operation, operation

_MARK: Final = hashlib.sha256(b"kmsd: which key is this").digest()[:BLOCK_BYTES]
_MADE_HERE: Final = (c.CKA_LOCAL, c.CKA_NEVER_EXTRACTABLE)
"""True of a key that was made on the token. Who made it, a public key does not tell."""


@operation(Operation.LIST_NAMELESS_KEYS)
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


@operation(Operation.GIVE_KEY_ID, changes=True)
def give_id(session: TokenSession, until: float, key: TokenKey, cka_id: bytes = b"") -> bytes:
    """Give a CKA_ID to the one key of this kind, label and privacy that has none, and return it. `session` is
    read-write.

    cka_id: empty for one that is derived from the key, so that several kmsd which do this at the same moment do the
    same. A public key becomes private, or nothing changes; only one that was made on the token.
    Raises InvalidRequest, Conflict or CkrError.
    """
    begin(until)
    named: c.Template = {c.CKA_LABEL: key.label.encode(), c.CKA_PRIVATE: key.private}
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
    elif _all_true(session, handle, _MADE_HERE):
        _make_private(session, handle, key, cka_id)
    else:
        raise Conflict(
            f"the public key {key.label!r} was not made on the token, or could leave it: its value may be known",
            "rather make a new key: kmsctl keygen LABEL",
        )
    if len(_with_id(session, key.kind, cka_id)) != 1:
        raise Conflict(f"the token did not take the CKA_ID of {key.label!r}", "kmsctl keys list shows its state")
    return cka_id


@operation(Operation.MAKE_KEY_PRIVATE, changes=True)
def make_private(session: TokenSession, until: float, key: TokenKey, cka_id: bytes) -> bytes:
    """Put a private copy in the place of the one public key of this kind, label and CKA_ID; return the copy's CKA_ID.

    `session` is read-write. Somebody has said that the key is theirs: the token cannot tell.

    cka_id: for a key that has none; empty for one that is derived from the key. Raises Conflict or CkrError.
    """
    begin(until)
    named: c.Template = {c.CKA_LABEL: key.label.encode(), c.CKA_PRIVATE: False}
    same = objects(session, named, key.kind)
    found = [handle for handle, each in same if each.kind == key.kind and each.cka_id == key.cka_id]
    if len(found) != 1:
        raise Conflict(
            f"{len(found)} public objects are labelled {key.label!r}; exactly one is needed",
            "kmsctl keys list shows them; pkcs11-tool --delete-object removes one",
        )
    cka_id = key.cka_id or cka_id or _derived(session, found[0], key)
    if _with_id(session, key.kind, cka_id):
        raise Conflict(f"another key has the CKA_ID of {key.label!r}", "kmsctl keys list shows which")
    _make_private(session, found[0], key, cka_id)
    return cka_id


def _with_id(session: TokenSession, kind: Kind, cka_id: bytes) -> list[int]:
    return [handle for handle, key in objects(session, {c.CKA_ID: cka_id}, kind) if key.kind == kind]


def _derived(session: TokenSession, handle: int, key: TokenKey) -> bytes:
    """Derive a UUID of version 4 (RFC 9562, 5.4), which claims no time: when the key was made is not known."""
    told = _fingerprint(session, handle, key.kind)
    if told is None:
        return str(uuid4()).encode()
    digest = hashlib.sha256(b"\0".join((key.kind.encode(), key.label.encode(), told))).digest()
    return str(UUID(bytes=digest[:16], version=4)).encode()


def _fingerprint(session: TokenSession, handle: int, kind: Kind) -> bytes | None:
    """Return what the key makes of a constant, which tells it from any other key; None if the token does not say."""
    table, own = session.cryptoki.table, session.handle
    ways: tuple[Callable[[], bytes], ...]
    match kind:
        case "rsa":
            return b"%x" % rsa_numbers_of(session, handle).modulus
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
    before = _fingerprint(session, handle, key.kind)
    copy = calls.copy_object(table, own, handle, {c.CKA_TOKEN: True, c.CKA_PRIVATE: True, c.CKA_ID: cka_id})
    with contextlib.suppress(CkrError):
        # Where the token lets nobody make a key more secret than it was, kmsd warns of it for as long as it serves.
        calls.set_attributes(table, own, copy, {c.CKA_SENSITIVE: True})
    alike = before is not None and _fingerprint(session, copy, key.kind) == before
    if not alike or not _all_true(session, copy, (c.CKA_PRIVATE, c.CKA_TOKEN)):
        calls.destroy_object(table, own, copy)
        raise Conflict(
            f"the token made no private copy of the public key {key.label!r} that works alike",
            "rather make a new key: kmsctl keygen LABEL",
        )
    calls.destroy_object(table, own, handle)


def _all_true(session: TokenSession, handle: int, attributes: tuple[int, ...]) -> bool:
    told = session.cryptoki.attributes(session.handle, handle, attributes)
    return all(told.get(attribute, b"\0") == b"\x01" for attribute in attributes)
