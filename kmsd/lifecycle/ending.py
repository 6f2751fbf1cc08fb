"""Letting keys go: retiring those that nothing needs any more, and destroying them.

Each of these is called with a fresh picture, while no other change goes on.
"""

from __future__ import annotations

import time

from kmsd.errors import Conflict
from kmsd.hsm import keys as token_keys
from kmsd.keyring import Keyring
from kmsd.lifecycle.evidence import Scan, Uses, in_use, still_needed
from kmsd.lifecycle.naming import LABEL_MOST, confirm, follower, move, named
from kmsd.lifecycle.turn import Turn
from kmsd.picture import Key, State, archived_label, companion_label, role


async def destroy(
    keyring: Keyring, turn: Turn, uses: Uses, which: str, confirm_label: str, *, dry_run: bool
) -> tuple[Key, Key | None]:
    """Destroy a key, and the HMAC key of a pair with it; both as they were. Raises Conflict if it is in use."""
    key = keyring.select(which)
    companion = keyring.picture.companion(key)
    if key.token.kind == "hmac" and companion is not None:
        why = f"the AES key {companion.label!r} needs it"
    elif key.token.kind == "rsa" and not key.reads:
        why = f"{key.label!r} is an RSA key that kmsd does not use, so something else may need it"
    else:
        why = in_use(key, uses) or named(keyring, key)
    confirm(key, confirm_label, why, "what it encrypted would be lost: `kmsctl etcd scan` shows what that is")
    both = [key, companion] if companion is not None and not _shared(keyring, key) else [key]
    if not dry_run:
        for each in both:
            hsm, its = keyring.hsm(each), each.token
            # Not by `turn.change`: what is looked up first may hang, and then the decision is old.
            await hsm.run_rw(token_keys.destroy, its.kind, each.cka_id, each.label, turn.begin)
        await keyring.look()
    return key, companion if len(both) == 2 else None


def _shared(keyring: Keyring, key: Key) -> bool:
    """Whether the HMAC key beside an AES key is to stay: another AES key has the same CKA_ID or writes with it, or it
    is the one that the configuration names for keys that have none. What is beside an HMAC key always stays."""
    companion = keyring.picture.companion(key)
    if key.token.kind != "aes" or companion is None or companion.label == keyring.hmac_label:
        return True
    return any(
        other.cka_id == key.cka_id or (other.scheme is not None and other.scheme.mac == companion.cka_id)
        for other in keyring.picture.keys
        if other.token.kind == "aes" and other.place == key.place and other is not key
    )


async def retire(
    keyring: Keyring, turn: Turn, uses: Uses, which: str, scan: Scan | None, confirm_label: str, *, dry_run: bool
) -> tuple[Key, str]:
    """Label a key as one that nothing needs any more; (the key, its previous label). Raises Conflict if the scan, or
    its absence, or a use after it speaks against that."""
    key = keyring.select(which)
    if not key.token.seals or not key.reads:
        raise Conflict(
            f"key {key.label!r} does not decrypt, so there is nothing to retire",
            key.hint or "an HMAC key is retired with its AES key; kmsctl keys destroy removes it",
        )
    if key.state is State.ARCHIVED:
        return key, key.label
    if key.state in (State.WRITE, State.PENDING):
        raise Conflict(in_use(key, uses), "rotate first: kmsctl rotate")
    to = archived_label(key.label, time.time())
    if len((to if follower(keyring, key) is None else companion_label(to)).encode()) > LABEL_MOST:
        raise Conflict(
            f"the label {key.label!r} is too long: nothing could be put behind it",
            "give the key a shorter one first: kmsctl keys relabel",
        )
    sealing = [each for each in keyring.picture.keys if each.token.seals]
    known = {name for each in sealing for name in (each.key_id, role(each.label))}
    why, hint = still_needed(key, scan, uses, known)
    confirm(key, confirm_label, why, hint)
    return (key if dry_run else await move(keyring, turn, key, to)), key.label
