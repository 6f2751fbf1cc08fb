"""Let keys go: retire those that nothing needs any more, and destroy them.

The functions that change keys are called with a fresh inventory, while no other change goes on.
"""

from __future__ import annotations

import time
from math import ceil

from kmsd.errors import Conflict
from kmsd.hsm.host import keys as token_keys
from kmsd.keys.key import Key, KeyState
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import archived_label, companion_label, is_archived
from kmsd.keys.lifecycle.evidence import ScanEvidence, UseRecords, in_use, may_be_needed
from kmsd.keys.lifecycle.naming import LABEL_MOST, confirm, follower, move, named
from kmsd.keys.lifecycle.permit import Permit

_LOST = "what it encrypted would be lost: `kmsctl etcd scan` shows what that is"


async def destroy(
    keyring: Keyring,
    permit: Permit,
    uses: UseRecords,
    which: str,
    scan: ScanEvidence | None,
    confirm_label: str,
    *,
    dry_run: bool,
) -> tuple[Key, Key | None]:
    """Destroy a key, and the HMAC key of a pair with it; return both as they were.

    Raises Conflict if it may be needed.
    """
    key = keyring.select(which)
    companion = keyring.inventory.companion(key)
    confirm(key, confirm_label, *_needed(keyring, key, scan, uses))
    both = [key, companion] if companion is not None and not _shared(keyring, key) else [key]
    if not dry_run:
        for each in both:
            hsm, its = keyring.hsm(each), each.token
            await permit.change(hsm, token_keys.destroy, its.kind, each.cka_id, each.label)
        await keyring.look()
    return key, companion if len(both) == 2 else None


def _needed(keyring: Keyring, key: Key, scan: ScanEvidence | None, uses: UseRecords) -> tuple[str, str]:
    """Return why a key should not be destroyed, and what to do instead; both empty if nothing speaks against it."""
    match key.token.kind:
        case "hmac":
            # It encrypts nothing by itself.
            pairs = [f"the AES key {each.label!r} needs it" for each in keyring.inventory.keys if _is_pair(each, key)]
            return named(keyring, key) or next(iter(pairs), ""), "an HMAC key goes with its AES key"
        case _ if key.token.purpose == "jwt":
            if is_archived(key.label):
                return "", ""
            return (
                f"{key.label!r} signs service account tokens, or did: kube-apiserver may need it to verify those that "
                "are in force",
                "retire it first: kmsctl jwt retire",
            )
        case _ if key.state is KeyState.SIGNING:
            return (
                f"{key.label!r} is the key of a CA: without it nothing more is issued or revoked, and when its last "
                "list of revocations ends, whoever checks that list takes no certificate that it signed any more",
                "kmsctl ca show says how many are out; kmsctl ca roll makes another key, and lets these end",
            )
        case "other" | "ec":
            return f"{key.label!r} is of a type that kmsd does not use, so something else may need it", _LOST
        case "rsa" if not key.reads:
            return f"{key.label!r} is an RSA key that kmsd does not use, so something else may need it", _LOST
        case "rsa" | "aes":
            pass
    if why := in_use(key):
        return why, _LOST
    return may_be_needed(key, "destroy", scan, uses, keyring.mine)


def _is_pair(aes: Key, mac: Key) -> bool:
    """Return whether an AES key writes or wrote with this HMAC key: its CKA_ID is the same, or its scheme names it."""
    beside = aes.token.kind == "aes" and aes.place == mac.place and mac.cka_id != b""
    return beside and (aes.cka_id == mac.cka_id or (aes.scheme is not None and aes.scheme.mac == mac.cka_id))


def _shared(keyring: Keyring, key: Key) -> bool:
    """Return whether the HMAC key beside an AES key is to stay: another AES key has the same CKA_ID or writes with it,
    or it is the one that the configuration names for keys that have none. What is beside an HMAC key always stays."""
    companion = keyring.inventory.companion(key)
    if key.token.kind != "aes" or companion is None or companion.label == keyring.hmac_label:
        return True
    return any(_is_pair(other, companion) for other in keyring.inventory.keys if other is not key)


async def retire(
    keyring: Keyring,
    permit: Permit,
    uses: UseRecords,
    which: str,
    scan: ScanEvidence | None,
    confirm_label: str,
    *,
    dry_run: bool,
) -> tuple[Key, str]:
    """Give a key the label of one that nothing needs any more; return (the key, its previous label). Raises Conflict if
    the scan, or its absence, or a use after it speaks against that."""
    key = keyring.select(which)
    if not key.token.seals or not key.reads:
        raise Conflict(
            f"key {key.label!r} does not decrypt, so there is nothing to retire",
            key.hint
            or "an HMAC key is retired with its AES key, a CA's by kmsctl ca roll, one for service account tokens by "
            "kmsctl jwt retire; kmsctl keys destroy removes them",
        )
    if key.state is KeyState.ARCHIVED:
        return key, key.label
    if writes := in_use(key):
        raise Conflict(writes, "rotate first: kmsctl rotate")
    # Labels have whole seconds: a use within this second counts as a use before it.
    to = archived_label(key.label, max(time.time(), ceil(uses.last(key.key_id))))
    if len((to if follower(keyring, key) is None else companion_label(to)).encode()) > LABEL_MOST:
        raise Conflict(
            f"the label {key.label!r} is too long: nothing could be put behind it",
            "give the key a shorter one first: kmsctl keys relabel",
        )
    confirm(key, confirm_label, *may_be_needed(key, "retire", scan, uses, keyring.mine))
    return (key if dry_run else await move(keyring, permit, key, to)), key.label
