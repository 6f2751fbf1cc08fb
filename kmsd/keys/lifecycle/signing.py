"""Make key pairs that sign, and move the label from one to the next.

The functions that change keys are called with a fresh inventory, while no other change goes on. Which key of a label
signs is the rule of the write key: the newest that holds the label, else the newest that is about to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from kmsd.errors import AlreadyExists, Conflict, InvalidRequest, Misconfigured, NotFound
from kmsd.hsm.host import importing, signing
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.host.signing import SigningKind
from kmsd.hsm.purpose import SigningPurpose, signing_id
from kmsd.hsm.vendors import tpm2
from kmsd.keys.key import Key, KeyState, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import check_label, is_archived, new_key_id, old_label, pending_label, role
from kmsd.keys.lifecycle.making import order_key
from kmsd.keys.lifecycle.permit import Permit

TYPES: Final[dict[str, tuple[SigningKind, int]]] = {
    "ec-p256": ("ec", 256),
    "ec-p384": ("ec", 384),
    "ec-p521": ("ec", 521),
    "rsa-2048": ("rsa", 2048),
    "rsa-3072": ("rsa", 3072),
    "rsa-4096": ("rsa", 4096),
}
"""The key pairs that can be made, by type."""
_INSTEAD: Final = "make a key on this token, and have the one from outside trusted: kmsctl jwt trust"
_FIRST: Final[dict[SigningPurpose, str]] = {
    "ca": "make one: kmsctl ca init",
    "jwt": "make one: kmsctl keygen {} --type ec-p256 --purpose jwt",
}


@dataclass(frozen=True)
class SigningOrder:
    """A key pair that somebody wants. kind: one of TYPES. place: name of the token."""

    label: str
    purpose: SigningPurpose
    kind: str
    place: str


def of_label(keyring: Keyring, label: str, purpose: SigningPurpose) -> list[Key]:
    """Return the keys for this purpose whose label is, or was made of, this one; the newest first."""
    return newest_first(
        key
        for key in keyring.inventory.keys
        if key.state is KeyState.SIGNING and key.token.purpose == purpose and role(key.label) == label
    )


def holders(keyring: Keyring, label: str, purpose: SigningPurpose) -> list[Key]:
    """Return the keys that hold or held this label and sign for this purpose: the one that signs now first, then those
    before it, the newest first."""
    keys = [key for key in of_label(keyring, label, purpose) if not is_archived(key.label)]
    now = [key for key in keys if key.label == label] or [key for key in keys if key.label == pending_label(label)]
    return [*now[:1], *(key for key in keys if key not in now[:1] and key.label != pending_label(label))]


def pending(keyring: Keyring, label: str, purpose: SigningPurpose) -> Key | None:
    """Return the key that is about to take this label; None if there is none."""
    keys = [key for key in of_label(keyring, label, purpose) if key.label == pending_label(label)]
    return keys[0] if keys else None


def first(keyring: Keyring, order: SigningOrder, *, if_not_exists: bool) -> Key | None:
    """Return the key that holds the label of an order already; None if nothing does. Raises AlreadyExists unless that
    is asked for, and Conflict where no such keys are used."""
    if not keyring.takes_signing:
        raise Conflict(
            "this kmsd uses no keys that sign",
            "set jwt.socket, for service account tokens, or ca.enabled, and restart kmsd",
        )
    held = [key for key in keyring.inventory.keys if key.label == order.label]
    fitting = [key for key in held if key.state is KeyState.SIGNING and key.token.purpose == order.purpose]
    if not held or (if_not_exists and fitting):
        return newest_first(fitting)[0] if fitting else None
    raise AlreadyExists(
        f"a key labelled {order.label!r} is there already",
        "--if-not-exists takes it; to have another sign: kmsctl jwt rotate" if fitting else "choose another label",
    )


def check(order: SigningOrder) -> None:
    """Raise InvalidRequest for what no token could make."""
    check_label(order.label)
    if role(order.label) != order.label:
        raise InvalidRequest(
            f"a label that ends as {order.label!r} does is only for rotations to give", "choose another label"
        )
    if order.kind not in TYPES:
        raise InvalidRequest(
            f"a key that signs must be one of {', '.join(TYPES)}, got {order.kind!r}", "leave it out for ec-p256"
        )


async def make(keyring: Keyring, permit: Permit, order: SigningOrder, newer_than: int = 0) -> Key:
    """Make a key pair, and return it from a fresh look. newer_than: when the key before it was made, in milliseconds.
    Raises Conflict if it is gone again, and what the token says."""
    hsm, (kind, bits) = keyring.tokens[order.place], TYPES[order.kind]
    cka_id = signing_id(order.purpose, new_key_id(newer_than)).encode("ascii")
    connected = hsm.connected
    if connected is not None and connected.quirks.generates_through == "tpm2_ptool":
        name, label = connected.token.label, order.label

        def add(pin: str | None) -> None:
            permit.begin()
            tpm2.add_keys(name, pin or "", [tpm2.NewKey(kind, label, cka_id)], rsa_bits=bits, ec_bits=bits)

        await hsm.hosting.without_module(add)
    else:
        try:
            await order_key(permit, hsm, signing.generate, order.label, cka_id, kind, bits)
        except Misconfigured as error:
            raise Misconfigured(
                f"no key {order.kind} was made: {error.message}",
                "choose another --type: kmsctl mechanisms shows what it can",
            ) from error
        if connected is not None and connected.quirks.misses_objects:
            await hsm.hosting.replace("another process may have made a key at the same moment")
    return await _made(keyring, cka_id)


async def take_in(
    keyring: Keyring, permit: Permit, order: SigningOrder, private: bytes, newer_than: int = 0
) -> tuple[Key, bool]:
    """Make a key pair on a token of a private key that was outside; return it from a fresh look, and whether the token
    got it wrapped. private: PKCS#8 as DER. newer_than: as of `make`. Raises as `make` does."""
    hsm = keyring.tokens[order.place]
    cka_id = signing_id(order.purpose, new_key_id(newer_than)).encode("ascii")
    connected = hsm.connected
    if connected is not None and connected.quirks.generates_through == "tpm2_ptool":
        raise Misconfigured("a TPM takes no private key through PKCS#11", _INSTEAD)
    try:
        wrapped = await permit.change(hsm, importing.take_in, order.label, cka_id, private)
    except Misconfigured as error:
        raise Misconfigured(f"the private key was not taken in: {error.message}", _INSTEAD) from error
    return await _made(keyring, cka_id), wrapped


async def _made(keyring: Keyring, cka_id: bytes) -> Key:
    await keyring.look()
    for key in keyring.inventory.keys:
        if key.cka_id == cka_id and key.state is KeyState.SIGNING:
            return key
    raise Conflict("the key was made and is gone again", "look for another program that uses this token")


async def succeed(keyring: Keyring, permit: Permit, label: str, purpose: SigningPurpose) -> Key:
    """Give the label to the key that is about to take it, and then take it from the one before, which keeps it with the
    time behind it. Return the key that signs then. Raises NotFound if there is none."""
    following = pending(keyring, label, purpose)
    if following is not None:
        await relabel(keyring, permit, following, label)
        await keyring.look()
    held = holders(keyring, label, purpose)
    if not held:
        raise NotFound(f"no key labelled {label!r} signs on {keyring.where}", _FIRST[purpose].format(label))
    await finish(keyring, permit, label, purpose)
    return held[0]


def unfinished(keyring: Keyring, label: str, purpose: SigningPurpose) -> bool:
    """Return whether somebody began to move the label, and has not come to the end: several keys hold it, or none does
    and one is about to."""
    held = [key for key in of_label(keyring, label, purpose) if key.label == label]
    return len(held) > 1 or (not held and pending(keyring, label, purpose) is not None)


async def finish(keyring: Keyring, permit: Permit, label: str, purpose: SigningPurpose) -> None:
    """Finish the moving of a label, whoever began it. Raises what the token says."""
    if not unfinished(keyring, label, purpose):
        return
    held = [key for key in of_label(keyring, label, purpose) if key.label == label]
    following = pending(keyring, label, purpose)
    if not held and following is not None:
        await relabel(keyring, permit, following, label)
    for key in held[1:]:
        await relabel(keyring, permit, key, old_label(label, time.time()))
    await keyring.look()


async def recall(keyring: Keyring, permit: Permit, key: Key, label: str, purpose: SigningPurpose) -> None:
    """Give a label back to a key that held it before. Of two that hold it the newer signs, so the others lose it first;
    meanwhile the key is about to take it, so that one of them signs at every moment. Raises what the token says."""
    others = [each for each in of_label(keyring, label, purpose) if each.label == label]
    if key.label != pending_label(label):
        await relabel(keyring, permit, key, pending_label(label))
    for each in others:
        await relabel(keyring, permit, each, old_label(label, time.time()))
    await keyring.look()
    await finish(keyring, permit, label, purpose)


async def relabel(keyring: Keyring, permit: Permit, key: Key, to: str) -> None:
    """Give a key another label. Raises what the token says."""
    hsm = keyring.hsm(key)
    await permit.change(hsm, token_keys.relabel, key.token.kind, key.cka_id, key.label, to)
