"""Judge one key by itself: whether it reads, how it writes, and why not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kmsd.crypto.oaep import RSA_BITS
from kmsd.crypto.schemes import ANY, RSA, Ability, Algorithm, Pair, aes_scheme
from kmsd.errors import Misconfigured
from kmsd.formats import keyid
from kmsd.formats.k8s_kms_plugin import header as legacy_header
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.key import AES_BITS, Key, KeyState
from kmsd.keys.labels import MAX_KEY_ID, created_ms, role

_STATES: Final = {"kek": KeyState.READABLE, "hmac": KeyState.COMPANION}
"""The state of a key of which nothing is known but its purpose; all others sign."""
_NEW_KEY: Final = "make a new key under a free label: kmsctl keygen LABEL"
_NEW_RSA: Final = "make one: kmsctl keygen LABEL --type rsa"
_NEW_PAIR: Final = "make a pair under a free label: kmsctl keygen LABEL --type pair"


@dataclass(frozen=True)
class Rules:
    """The facts that the judgement rests on beside the keys.

    abilities: of the tokens, by name; ANY for one that is not in it. hmac_label: of the HMAC key that belongs to keys
    that have none with their CKA_ID. signing: whether keys that sign are looked for. picked: the enc that was found to
    work, by token and CKA_IDs of a pair (that of the HMAC key is empty for an RSA key); empty if none does.
    """

    algorithm: Algorithm = "auto"
    hmac_label: str = ""
    signing: bool = False
    abilities: Mapping[str, Ability] = field(default_factory=dict)
    picked: Mapping[tuple[str, bytes, bytes], str] = field(default_factory=dict)

    @property
    def pairs(self) -> bool:
        """Whether an AES key needs an HMAC key beside it on every token."""
        able = self.abilities.values()
        return self.algorithm == "aes-cbc" or (self.algorithm == "auto" and bool(able) and not any(a.gcm for a in able))

    @property
    def rsa(self) -> bool:
        """Whether RSA keys serve."""
        return self.algorithm == "rsa-oaep"

    @property
    def new_key(self) -> str:
        """The words to give to `kmsctl keygen LABEL` beside the label."""
        return " --type rsa" if self.rsa else " --type pair" if self.pairs else ""


def judge_one(key: TokenKey, place: str, beside: Sequence[TokenKey], rules: Rules, write_label: str) -> Key:
    """Judge one key. beside: all keys on its token."""
    judged = bare(key, place)
    key_id = judged.key_id
    if judged.state is KeyState.SIGNING:
        return judged
    match key.kind:
        case "other" | "ec":
            return unusable(judged, "it is neither an AES nor an HMAC key", "kmsd leaves it alone")
        case "hmac":
            return judged
        case "rsa" if not rules.rsa or role(key.label) != write_label:
            # Anybody may know the public key: only what is meant to be opened with it is, whatever a ciphertext names.
            return unusable(
                judged,
                f"of RSA keys only those labelled {write_label!r} serve, and only with --algorithm rsa-oaep",
                "kmsd leaves it alone",
            )
        case "rsa" | "aes":
            pass
    if not key.cka_id:
        return unusable(
            judged,
            "it has no CKA_ID, so nothing could name it",
            f"give it one: kmsctl keys adopt {key.label}",
        )
    if len(key_id) > MAX_KEY_ID:
        return unusable(judged, f"its key id has over {MAX_KEY_ID} characters", "give it a shorter CKA_ID")
    if key.kind == "rsa" and key.bits not in RSA_BITS:
        why = f"it is an RSA key of {key.bits} bits, and {RSA_BITS[0]} to {RSA_BITS[-1]} are needed"
        return unusable(judged, why, _NEW_RSA)
    if key.kind == "aes" and key.bits not in AES_BITS:
        return unusable(judged, "the token does not tell its size", _NEW_KEY)
    if not key.decrypt:
        return unusable(judged, "CKA_DECRYPT is not set", f"set it, or {_NEW_KEY}")
    return _with_rsa(judged, rules) if key.kind == "rsa" else _with_scheme(judged, beside, rules)


def bare(key: TokenKey, place: str) -> Key:
    """Return the key before it is judged."""
    key_id = keyid.text(key.cka_id)
    return Key(
        token=key,
        place=place,
        key_id=key_id,
        key_id_sha256=hashlib.sha256(key_id.encode()).hexdigest() if key_id else "",
        state=_STATES.get(key.purpose, KeyState.SIGNING),
        reason="",
        hint="",
        created_ms=created_ms(key_id),
        scheme=None,
        header=b"",
        legacy_header=legacy_header(key.label),
    )


def unusable(key: Key, reason: str, hint: str) -> Key:
    """Return the key as one that serves for nothing, and why."""
    return replace(key, state=KeyState.UNUSABLE, reason=reason, hint=hint)


def _with_rsa(key: Key, rules: Rules) -> Key:
    if not rules.picked.get((key.place, key.cka_id, b""), RSA.enc):
        return unusable(
            key,
            "its token does not decrypt RSA-OAEP with SHA-256 with it",
            "use a token that does, or one with AES (kmsctl doctor shows what this one can do)",
        )
    return replace(key, scheme=RSA, header=RSA.header(key.key_id))


def _with_scheme(key: Key, beside: Sequence[TokenKey], rules: Rules) -> Key:
    """Return the key with how it writes. Without a way to, it reads what it wrote before, if its token does AES-GCM or
    it has its HMAC key."""
    ability = rules.abilities.get(key.place, ANY)
    mac = None
    try:
        alone = rules.algorithm == "aes-gcm" or (rules.algorithm != "aes-cbc" and ability.gcm)
        mac = None if alone else _mac(key, beside, rules)
        how = aes_scheme(rules.algorithm, ability, key.token.bits, (mac.cka_id, mac.bits) if mac is not None else None)
        if isinstance(how, Pair):
            how = replace(how, enc=_picked(key, how.mac, how.enc, rules))
    except Misconfigured as error:
        # A failed trial of AES-GCM says nothing of what was written before: its tag is
        # checked at each reading, if the token looks at tags at all.
        tagged = ability.gcm or (ability.gcm_refused and not ability.gcm_unauthenticated)
        if tagged or mac is not None:
            return replace(key, reason=error.message, hint=error.hint)
        return unusable(key, error.message, error.hint)
    return replace(key, scheme=how, header=how.header(key.key_id))


def _picked(key: Key, mac: bytes, enc: str, rules: Rules) -> str:
    found = rules.picked.get((key.place, key.cka_id, mac), enc)
    if not found:
        raise Misconfigured(
            "its token refuses to encrypt with this pair, whichever way",
            f"the keys' attributes or sizes forbid it: {_NEW_PAIR}",
        )
    return found


def _mac(key: Key, beside: Sequence[TokenKey], rules: Rules) -> TokenKey | None:
    """Return the HMAC key that belongs to an AES key. Raises Misconfigured if there is one that cannot be it.

    The configured one belongs to every key that has none of its own: a key that wrote before, whatever its label is
    now, must read on.
    """
    found = [other for other in beside if other.cka_id == key.cka_id and other.kind == "hmac"]
    how = f"with its CKA_ID, {key.key_id}"
    if not found and rules.hmac_label:
        named = [other for other in beside if other.label == rules.hmac_label and other != key.token]
        found = [other for other in named if other.kind == "hmac"]
        how = f"labelled {rules.hmac_label!r}"
        if named and not found:
            what = "an AES key" if named[0].kind == "aes" else "of another type"
            raise Misconfigured(
                f"the key {how} is no HMAC key but {what}",
                f"name the HMAC key with --p11-hmac-label, or {_NEW_PAIR}",
            )
    if not found:
        return None
    if len(found) > 1:
        raise Misconfigured(f"there are {len(found)} HMAC keys {how}", "relabel or destroy all but one")
    (mac,) = found
    if not mac.cka_id:
        raise Misconfigured(
            f"the HMAC key {how} has no CKA_ID, so nothing could name it",
            f"give it one: kmsctl keys adopt {mac.label}",
        )
    if not mac.sign:
        raise Misconfigured(f"CKA_SIGN is not set on the HMAC key {how}", f"set it, or {_NEW_PAIR}")
    return mac
