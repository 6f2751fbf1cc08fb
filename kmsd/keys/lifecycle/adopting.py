"""Give an identity to keys that other programs made without one: because an operator says so, or unasked where it is
plain which key is meant.

The functions that change keys are called with a fresh inventory, while no other change goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.errors import Conflict, InvalidRequest, NotFound
from kmsd.hsm.host import adoption
from kmsd.hsm.host.keys import Kind, TokenKey
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import key_id_bytes, role
from kmsd.keys.lifecycle.making import made, refuse_known, refuse_taken
from kmsd.keys.lifecycle.permit import Permit
from kmsd.problem import About, Problem


@dataclass(frozen=True)
class Nameless:
    """A key without CKA_ID. place: name of its token."""

    place: str
    key: TokenKey


async def adopt(keyring: Keyring, permit: Permit, label: str, key_id: str) -> Key:
    """Give a CKA_ID to the key with this label that lacks one. Raises NotFound, Conflict, AlreadyExists."""
    # AES and RSA keys come before HMAC keys: their id names what is written.
    private = [each for each in await _nameless(keyring, label) if each.key.private]
    found = sorted(private, key=lambda each: not each.key.seals)
    if found:
        return await give_id(keyring, permit, found[0], key_id)
    for known in keyring.inventory.keys:
        if known.label == label and known.token.kind != "other":
            raise Conflict(f"key {label!r} has a CKA_ID already: {known.key_id}", "there is nothing to do")
    kinds = "AES, HMAC or RSA" if keyring.takes_rsa else "AES or HMAC"
    missing = f"there is no {kinds} key labelled {label!r} on {keyring.where}"
    if any(key.label == label for key in keyring.inventory.public):
        raise NotFound(
            f"{missing}, but a public object", f"if you made it yourself: kmsctl keys adopt {label} --public"
        )
    raise NotFound(missing, "kmsctl keys list shows all")


async def adopt_public(keyring: Keyring, permit: Permit, label: str, key_id: str) -> Key:
    """Put a private copy in the place of the public key with this label, because an operator says that it is theirs.
    Raises NotFound, Conflict, AlreadyExists, InvalidRequest."""
    found = [key for key in keyring.inventory.public if key.label == label and key.token.kind in ("aes", "hmac")]
    if not found:
        raise NotFound(
            f"no public AES or HMAC key labelled {label!r} is on {keyring.where}", "kmsctl keys list shows all"
        )
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} public objects are labelled {label!r}, and somebody may have planted any of them",
            "delete all but the one that is yours: pkcs11-tool --delete-object",
        )
    (public,) = found
    if key_id and public.key_id and public.key_id != key_id:
        raise InvalidRequest(f"its key id is {public.key_id!r}, which what it encrypted may name", "leave --id out")
    kind = public.token.kind
    refuse_taken(keyring, label, kind)
    if wanted := public.key_id or key_id:
        refuse_known(keyring, wanted, ("aes", "hmac", "rsa", "other"))
    given = key_id_bytes(key_id) if key_id and not public.cka_id else b""
    cka_id = await permit.change(keyring.tokens[public.place], adoption.make_private, public.token, given)
    return (await made(keyring, cka_id, kind)).key


async def give_id(keyring: Keyring, permit: Permit, found: Nameless, key_id: str = "") -> Key:
    """Give this key a CKA_ID; return it as it is then. key_id: empty for one that claims no time. Raises Conflict,
    AlreadyExists, and what the token says."""
    wanted = b""
    if key_id:
        wanted = key_id_bytes(key_id)
        refuse_known(keyring, key_id, ("aes", "hmac", "rsa", "other"))
    cka_id = await permit.change(keyring.tokens[found.place], adoption.give_id, found.key, wanted)
    return (await made(keyring, cka_id, found.key.kind)).key


async def unasked(keyring: Keyring, *, public: bool, recalled: str) -> Nameless | Problem | None:
    """Return the key that is to get a CKA_ID so that something writes: the only one with the write label, or then the
    only HMAC key that the configuration names for it. Or why it does not get one, or None if there is no such key.

    public: whether a public key may get one, which anybody may have made who reaches the token. recalled: key_id of the
    key that wrote here before, empty if none is known.
    """
    sought = _sought(keyring)
    if sought is None:
        return None
    label, kinds, place = sought
    found = [each for each in await _nameless(keyring, label) if each.key.kind in kinds and place in ("", each.place)]
    # What is public does not stand in the way of what is private, and is told of as any public object.
    private = [each for each in found if each.key.private]
    found = private or (found if public else [])
    if not found:
        return None
    by_hand = f"kmsctl keys adopt {label}"
    if recalled:
        # Another write key in its place would hide a loss, or a token that is not the right one.
        return Problem(
            f"key {recalled} wrote here before and is not on {keyring.where}: {label!r}, which has no CKA_ID, does not "
            "take its place by itself",
            f"bring the right token or key back; if {label!r} is to write from now on: {by_hand}",
            fatal=False,
            about=About(key_label=label),
        )
    if len(found) > 1:
        return Problem(
            f"{len(found)} keys labelled {label!r} on {keyring.where} have no CKA_ID: which is meant cannot be told",
            f"destroy or relabel all but one, with the token's own tool; then: {by_hand}",
            fatal=False,
            about=About(key_label=label),
        )
    return found[0]


def _sought(keyring: Keyring) -> tuple[str, tuple[Kind, ...], str] | None:
    """Return (label, kinds, token or empty for any) of the key without CKA_ID that keeps kmsd from writing, if all
    tokens are there to be asked; None if something else does, or nothing."""
    inventory, label = keyring.inventory, keyring.write_label
    if inventory.write is not None or not keyring.complete:
        return None
    # If a key with a CKA_ID holds or held the label, one without is not known to be its successor.
    named = [key for key in inventory.keys if key.token.private and key.cka_id]
    writers = [key for key in named if key.token.seals and role(key.label) == label]
    if not writers:
        return label, ("aes", "rsa"), ""
    key, hmac_label = writers[0], keyring.hmac_label
    alone = len(writers) == 1 and key.label == label and key.token.kind == "aes" and inventory.companion(key) is None
    there = any(each.label == hmac_label and each.token.kind == "hmac" for each in named)
    return (hmac_label, ("hmac",), key.place) if hmac_label and alone and not there else None


async def _nameless(keyring: Keyring, label: str) -> list[Nameless]:
    """Return the keys with this label that lack a CKA_ID, on the tokens that are up. Raises what a token says."""
    return [
        Nameless(place, key)
        for place, hsm in keyring.tokens.items()
        if hsm.connected is not None
        for key in await hsm.run(adoption.nameless, label, keyring.takes_rsa, timeout=30.0)
    ]
