"""Give keys other labels, and ask for a label once more before what may cut something off.

The functions that change keys are called with a fresh inventory, while no other change goes on.
"""

from __future__ import annotations

from typing import Final

from kmsd.errors import Conflict, InvalidRequest, short
from kmsd.hsm.host import keys as token_keys
from kmsd.keys.key import Key, KeyState
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import check_label, companion_label, role
from kmsd.keys.lifecycle.making import refuse_taken
from kmsd.keys.lifecycle.permit import Permit

LABEL_MOST: Final = 255
"""The most bytes that a label may have."""


def check(to: str) -> None:
    """Raise InvalidRequest for a label that is none, or not an operator's to give."""
    check_label(to)
    if role(to) != to:
        raise InvalidRequest(f"a label that ends as {to!r} does is only for rotations to give", "choose another label")


async def relabel(
    keyring: Keyring, permit: Permit, which: str, to: str, confirm_label: str, *, dry_run: bool
) -> tuple[Key, str]:
    """Give a key another label; return (the key, its previous label). Raises Conflict, AlreadyExists."""
    key = keyring.select(which)
    if key.label == to:
        return key, to
    if key.state is KeyState.SIGNING:
        raise Conflict(
            f"{key.label!r} is a key that signs ({key.token.purpose}), and by its label it is known which one does",
            "kmsctl ca roll makes another one, and moves the label",
        )
    refuse_taken(keyring, to, key.token.kind)
    if follower(keyring, key) is not None:
        check_label(companion_label(to))
        refuse_taken(keyring, companion_label(to), "hmac")
    confirm(key, confirm_label, *_against(keyring, key, to))
    return (key if dry_run else await move(keyring, permit, key, to)), key.label


def _against(keyring: Keyring, key: Key, to: str) -> tuple[str, str]:
    """Return why a key should keep its label, and what to do instead; nothing speaks against it if the first is
    empty."""
    rotate, held = "`kmsctl rotate` makes a new write key and keeps this one readable", role(key.label)
    if key.state is KeyState.WRITE:
        return f"{key.label!r} is the write key: without the label {role(key.label)!r} nothing is encrypted", rotate
    if to != held and to in keyring.others:
        return f"{to!r} is a tenant's label: the tenant could read what {key.label!r} wrote, and write with it", rotate
    if held != to and held in keyring.others:
        return f"{key.label!r} is a tenant's key: what it wrote could not be read for that tenant any more", rotate
    if to == keyring.write_label and key.token.seals:
        return f"{key.label!r} would become the write key", rotate
    if key.token.kind == "aes" and key.reads and key.state is not KeyState.PENDING and held not in (key.label, to):
        return (
            f"{key.label!r} wrote as {held!r}: what k8s-kms-plugin wrote names that label, and under another one this "
            "key is not found for it any more",
            "`kmsctl etcd scan` counts what names a label",
        )
    if key.token.kind == "rsa" and not key.reads:
        return f"{key.label!r} is an RSA key that kmsd does not use, so something else may need it", rotate
    if key.token.kind == "rsa" and role(to) != keyring.write_label:
        return f"{key.label!r} reads only under a label of {keyring.write_label!r}, as every RSA key", rotate
    return named(keyring, key), rotate


async def move(keyring: Keyring, permit: Permit, key: Key, to: str) -> Key:
    """Give a key this label, and its HMAC key the one that goes with it; return the key as it is then. Raises
    Conflict if it is gone, and what the token says."""
    companion = follower(keyring, key)
    await _relabel(keyring, permit, key, to)
    if companion is not None:
        await _relabel(keyring, permit, companion, companion_label(to))
    await keyring.look()
    return again(keyring, key, to)


async def _relabel(keyring: Keyring, permit: Permit, key: Key, to: str) -> None:
    await permit.change(keyring.hsm(key), token_keys.relabel, key.token.kind, key.cka_id, key.label, to)


def follower(keyring: Keyring, key: Key) -> Key | None:
    """Return the HMAC key of a pair, if it has the label that goes with its AES key's."""
    companion = keyring.inventory.companion(key) if key.token.kind == "aes" else None
    return companion if companion is not None and companion.label == companion_label(key.label) else None


def again(keyring: Keyring, key: Key, label: str) -> Key:
    """Return the same key in the present inventory. label: its present one, by which a key without CKA_ID is known.
    Raises Conflict if it is gone."""
    for other in keyring.inventory.keys:
        same = (other.place, other.token.kind, other.cka_id) == (key.place, key.token.kind, key.cka_id)
        if same and (key.cka_id or other.label == label):
            return other
    raise Conflict(f"key {key.label!r} is gone", "look for another program that uses this token")


def named(keyring: Keyring, key: Key) -> str:
    """Return why an HMAC key is needed that the configuration names; empty if it names another."""
    is_named = key.token.kind == "hmac" and key.label == keyring.hmac_label
    return f"{key.label!r} is the HMAC key that --p11-hmac-label names" if is_named else ""


def confirm(key: Key, given: str, why: str, hint: str) -> None:
    """Raise Conflict if something speaks against a change (`why`) and the label was not given once more, InvalidRequest
    if a wrong label was given, for then another key may be meant. A key without a label is called by its key id."""
    called, what = (key.label, "label") if key.label else (key.key_id, "key id")
    if given and given != called:
        raise InvalidRequest(
            f"{short(given)} is not the {what} of this key, which is {called!r}",
            f"nothing was changed; give its {what}",
        )
    if why and not given:
        raise Conflict(why, f"{hint}; to do it in spite of that, give the {what} once more: --confirm {called}")
