"""Make key pairs that sign, and move the label from one to the next.

The functions that change keys are called with a fresh inventory, while no other change goes on. Which key of a label
signs is the rule of the write key: the newest that holds the label, else the newest that is about to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from kmsd.errors import Conflict, InvalidRequest, Misconfigured, NotFound
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.host import signing
from kmsd.hsm.host.signing import SigningKind
from kmsd.hsm.purpose import SigningPurpose, signing_id
from kmsd.hsm.vendors import tpm2
from kmsd.keys.key import Key, KeyState, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import check_label, new_key_id, old_label, pending_label, role
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


@dataclass(frozen=True)
class SigningOrder:
    """A key pair that somebody wants. kind: one of TYPES. place: name of the token."""

    label: str
    purpose: SigningPurpose
    kind: str
    place: str


def holders(keyring: Keyring, label: str, purpose: SigningPurpose) -> list[Key]:
    """Return the keys that hold or held this label and sign for this purpose: the one that signs now first, then those
    before it, the newest first."""
    keys = newest_first(
        key
        for key in keyring.inventory.keys
        if key.state is KeyState.SIGNING and key.token.purpose == purpose and role(key.label) == label
    )
    now = [key for key in keys if key.label == label] or [key for key in keys if key.label == pending_label(label)]
    return [*now[:1], *(key for key in keys if key not in now[:1] and key.label != pending_label(label))]


def pending(keyring: Keyring, label: str, purpose: SigningPurpose) -> Key | None:
    """Return the key that is about to take this label; None if there is none."""
    keys = newest_first(
        key
        for key in keyring.inventory.keys
        if key.state is KeyState.SIGNING and key.token.purpose == purpose and key.label == pending_label(label)
    )
    return keys[0] if keys else None


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
            await permit.change(hsm, signing.generate, order.label, cka_id, kind, bits)
        except Misconfigured as error:
            raise Misconfigured(
                f"no key {order.kind} was made: {error.message}",
                "choose another --type: kmsctl mechanisms shows what it can",
            ) from error
        if connected is not None and connected.quirks.misses_objects:
            await hsm.hosting.replace("another process may have made a key at the same moment")
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
        await _relabel(keyring, permit, following, label)
        await keyring.look()
    held = holders(keyring, label, purpose)
    if not held:
        raise NotFound(f"no key labelled {label!r} signs on {keyring.where}", "make one: kmsctl ca init")
    for key in held[1:]:
        if key.label == label:
            await _relabel(keyring, permit, key, old_label(label, time.time()))
    if any(key.label == label for key in held[1:]):
        await keyring.look()
    return held[0]


async def _relabel(keyring: Keyring, permit: Permit, key: Key, to: str) -> None:
    hsm = keyring.hsm(key)
    await permit.change(hsm, token_keys.relabel, key.token.kind, key.cka_id, key.label, to)
