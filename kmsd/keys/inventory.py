"""The keys of all tokens at one moment, judged: the rules of which key writes and which keys read.

Pure functions over a list of keys, so that every order of events can be tried on them; looks at no token itself.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from kmsd.crypto.oaep import RSA_BITS
from kmsd.crypto.schemes import ANY, RSA, Ability, Algorithm, Pair, aes_scheme
from kmsd.errors import Misconfigured, short
from kmsd.formats import keyid
from kmsd.formats.k8s_kms_plugin import header as legacy_header
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.key import AES_BITS, Inventory, Key, KeyState, newest_first
from kmsd.keys.labels import MAX_KEY_ID, companion_label, created_ms, is_archived, pending_label, role
from kmsd.near import near
from kmsd.problem import About, Calls, Problem

SAME_ID_HINT: Final = "kmsctl keys list shows their labels: give all but one another CKA_ID, with the token's own tool"
_NEW_KEY: Final = "make a new key under a free label: kmsctl keygen LABEL"
_NEW_RSA: Final = "make one: kmsctl keygen LABEL --type rsa"
_NEW_PAIR: Final = "make a pair under a free label: kmsctl keygen LABEL --type pair"
_MAY_NOT_WRITE: Final = "set it, or choose another write label (--p11-key-label) and make its key"


@dataclass(frozen=True)
class Rules:
    """The facts that the judgement rests on beside the keys.

    abilities: of the tokens, by name; ANY for one that is not in it. hmac_label: of the HMAC key that belongs to keys
    that have none with their CKA_ID. picked: the enc that was found to work, by token and CKA_IDs of a pair (that of
    the HMAC key is empty for an RSA key); empty if none does.
    """

    algorithm: Algorithm = "auto"
    hmac_label: str = ""
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


_NO_RULES: Final = Rules()
_NOTHING: Final[Mapping[str, Sequence[TokenKey]]] = {}


def judge(
    found: Mapping[str, Sequence[TokenKey]],
    write_label: str,
    where: str,
    rules: Rules = _NO_RULES,
    public: Mapping[str, Sequence[TokenKey]] = _NOTHING,
    others_write: Sequence[str] = (),
) -> Inventory:
    """The rules, over whatever the tokens show. found: keys by name of the token; where: the tokens in words. public:
    objects that anybody may have made, which make no difference to any key. others_write: labels whose newest key
    writes, too, for others.

    The write key is the newest key labelled `write_label`, else the newest labelled `<write_label>.pending`, on
    whichever token; every other usable key reads. Two keys with one key_id are both refused: nobody could tell
    which is meant.
    """
    keys = [_judge_one(key, place, shown, rules, write_label) for place, shown in found.items() for key in shown]
    # A key of another program with the id of one of ours does no harm: it is never used.
    counts = Counter(key.key_id for key in keys if key.key_id and (key.token.kind == "aes" or _is_rsa_in_use(key)))
    keys = [
        _unusable(key, f"{counts[key.key_id]} keys have this key id", SAME_ID_HINT)
        if counts[key.key_id] > 1 and (key.token.kind == "aes" or _is_rsa_in_use(key))
        else key
        for key in keys
    ]
    writers = newest_first(key for key in keys if key.may_write and key.label == write_label)
    waiting = newest_first(key for key in keys if key.may_write and key.label == pending_label(write_label))
    write = writers[0] if writers else waiting[0] if waiting else None
    writing = {id(write)} if write is not None else set()
    for label in others_write:
        held = newest_first(key for key in keys if key.may_write and key.label == label)
        writing |= {id(held[0])} if held else set()
    others = _judge_public(public, keys, write_label, rules)
    problems = [
        *_problems(keys, writers, write, others, write_label, where, rules),
        *_exposed(keys, where),
        *_trusted_public(keys, where),
        *_planted(others, where),
    ]
    keys = [
        replace(key, state=KeyState.WRITE)
        if id(key) in writing
        else replace(key, state=KeyState.PENDING)
        if key.reads and key.label == pending_label(write_label)
        else replace(key, state=KeyState.ARCHIVED)
        if key.reads and is_archived(key.label)
        else key
        for key in keys
    ]
    by_key_id = {key.key_id: key for key in keys if key.reads}
    return Inventory(
        keys=tuple(sorted(keys, key=lambda k: (k.label, k.key_id, k.place))),
        write=by_key_id[write.key_id] if write else None,
        by_key_id=by_key_id,
        problems=tuple(problems),
        companions={(key.place, key.cka_id): key for key in keys if key.token.kind == "hmac" and key.cka_id},
        public=others,
    )


def _judge_public(
    public: Mapping[str, Sequence[TokenKey]], keys: Sequence[Key], write_label: str, rules: Rules
) -> tuple[Key, ...]:
    """Judge the public objects, which serve for nothing; those that pass for a key of ours are planted."""
    if not any(public.values()):
        return ()
    ids = {key.cka_id for key in keys if key.cka_id}
    roles = {write_label, companion_label(write_label), rules.hmac_label, *(role(key.label) for key in keys)} - {""}
    judged = []
    for place, shown in public.items():
        for token in shown:
            key = _bare(token, place)
            held = token.label.removesuffix(companion_label(""))
            if token.cka_id in ids or {token.label, role(token.label), role(held)} & roles:
                key = replace(key, state=KeyState.PLANTED, reason=_PUBLIC, hint=_DELETE_PUBLIC)
            else:
                key = _unusable(
                    key, _PUBLIC, "kmsd leaves it alone; one that you made yourself: kmsctl keys adopt LABEL --public"
                )
            judged.append(key)
    return tuple(sorted(judged, key=lambda k: (k.label, k.key_id, k.place)))


def _planted(public: Sequence[Key], where: str) -> Iterable[Problem]:
    planted = [key for key in public if key.state is KeyState.PLANTED]
    if planted:
        names = ", ".join(sorted({repr(key.label or key.key_id)[:80] for key in planted})[:4])
        yield Problem(
            f"public objects on {where} pass for keys of kmsd ({names}, {len(planted)} in all): whoever made them "
            "needed no PIN; they are not used",
            f"find out who reaches the token, then {_DELETE_PUBLIC}",
            fatal=False,
            about=_about(planted[0]),
        )


def _exposed(keys: Sequence[Key], where: str) -> Iterable[Problem]:
    """Yield what the attributes of keys that serve allow, and should not."""
    exposed = [key for key in keys if key.token.exposed and (key.reads or key.token.kind == "hmac")]
    if exposed:
        shown = ", ".join(f"{key.label!r} is {' and '.join(key.token.exposed)}" for key in exposed[:4])
        more = f", and {len(exposed) - 4} more" if len(exposed) > 4 else ""
        yield Problem(
            f"keys on {where} can be read by whoever has the PIN: {shown}{more}",
            "they serve all the same; to be rid of this, rotate to a key that kmsd makes: kmsctl rotate",
            fatal=False,
            about=_about(exposed[0]),
        )


def _trusted_public(keys: Sequence[Key], where: str) -> Iterable[Problem]:
    trusted = sorted(key.key_id for key in keys if not key.token.private)
    if trusted:
        yield Problem(
            f"keys.trust_public_objects names {', '.join(map(short, trusted[:4]))} on {where}: whoever reaches the "
            "token can put another key in the place of these without a PIN, and read what is written then",
            "use private keys wherever the token keeps some: kmsctl rotate",
            fatal=False,
            about=About(setting="keys.trust_public_objects"),
        )


_PUBLIC: Final = "its object is public (CKA_PRIVATE is false): whoever reaches the token without a PIN may have made it"
_DELETE_PUBLIC: Final = (
    "delete what is not yours (no PIN is needed: pkcs11-tool --delete-object --type secrkey --label LABEL); a key that "
    "you made yourself: kmsctl keys adopt LABEL --public"
)


_NOTHING_WRITES: Final = Calls(code=Misconfigured.code)
"""The calls that `Keyring.why_none` lets fail."""
_NOT_READ: Final = Calls("Decrypt", Misconfigured.code)
"""The calls that `Keyring.find` lets fail."""


def _about(key: Key) -> About:
    return About(key.place, key.key_id, key.label)


def _problems(
    keys: Sequence[Key],
    writers: Sequence[Key],
    write: Key | None,
    others: Sequence[Key],
    write_label: str,
    where: str,
    rules: Rules,
) -> Iterable[Problem]:
    if len(writers) > 1:
        yield Problem(
            f"{len(writers)} keys on {where} are labelled {write_label!r}; the newest writes, all read",
            "kmsd relabels the older ones by itself; if this stays, `kmsctl rotate` says why",
            fatal=False,
            passing=True,
            about=_about(writers[-1]),
        )
    fatal = write is None
    told = False
    for key in keys:
        if key.label == write_label and key.token.seals:
            reason, hint = _why_not_writing(key)
            if reason:
                told = True
                if fatal and key.lacks_scheme and rules.algorithm != "aes-gcm":
                    hint = f"`kmsctl rotate` makes a key that serves in its place, and keeps this one; {hint}"
                about = replace(_about(key), calls=_NOTHING_WRITES if fatal else _NOT_READ if key.key_id else None)
                yield Problem(f"key {write_label!r} on {where} cannot serve: {reason}", hint, fatal=fatal, about=about)
    if write is None and not told:
        public = any(key.label == write_label for key in others)
        alike = near(write_label, (key.label for key in keys if key.token.seals))
        yield Problem(
            f"there is no key labelled {write_label!r} on {where}"
            + (", but a public object, which whoever reaches the token may have made" if public else "")
            + (f"; there is {' and '.join(map(repr, alike))}" if alike else ""),
            f"make one: kmsctl keygen {write_label}{rules.new_key}"
            + (f"; if you made the public one yourself: kmsctl keys adopt {write_label} --public" if public else "")
            + (f"; if it is that one: kmsctl keys relabel {_named(alike[0], keys)} {write_label}" if alike else ""),
            fatal=True,
            about=About(key_label=write_label, calls=_NOTHING_WRITES),
        )


def _named(label: str, keys: Iterable[Key]) -> str:
    """Return what names the key with a label on a command line: its label, or its key id where no shell could take
    that."""
    if label.isprintable():
        return shlex.quote(label)
    return next((key.key_id for key in keys if key.label == label and key.key_id), "KEY-ID")


def _why_not_writing(key: Key) -> tuple[str, str]:
    """Return (reason, hint) why this key cannot write; ("", "") if it can."""
    if not key.reads:
        return key.reason, key.hint
    if not key.token.encrypt:
        return (
            "CKA_ENCRYPT is not set, so it only reads",
            _MAY_NOT_WRITE,
        )
    if key.scheme is None:
        return key.reason, key.hint
    return "", ""


def _bare(key: TokenKey, place: str) -> Key:
    """Return the key before it is judged."""
    key_id = keyid.text(key.cka_id)
    return Key(
        token=key,
        place=place,
        key_id=key_id,
        key_id_sha256=hashlib.sha256(key_id.encode()).hexdigest() if key_id else "",
        state=KeyState.READABLE if key.seals else KeyState.COMPANION,
        reason="",
        hint="",
        created_ms=created_ms(key_id),
        scheme=None,
        header=b"",
        legacy_header=legacy_header(key.label),
    )


def _judge_one(key: TokenKey, place: str, beside: Sequence[TokenKey], rules: Rules, write_label: str) -> Key:
    judged = _bare(key, place)
    key_id = judged.key_id
    match key.kind:
        case "other":
            return _unusable(judged, "it is neither an AES nor an HMAC key", "kmsd leaves it alone")
        case "hmac":
            return judged
        case "rsa" if not rules.rsa or role(key.label) != write_label:
            # Anybody may know the public key: only what is meant to be opened with it is, whatever a ciphertext names.
            return _unusable(
                judged,
                f"of RSA keys only those labelled {write_label!r} serve, and only with --algorithm rsa-oaep",
                "kmsd leaves it alone",
            )
        case "rsa" | "aes":
            pass
    if not key.cka_id:
        return _unusable(
            judged,
            "it has no CKA_ID, so nothing could name it",
            f"give it one: kmsctl keys adopt {key.label}",
        )
    if len(key_id) > MAX_KEY_ID:
        return _unusable(judged, f"its key id has over {MAX_KEY_ID} characters", "give it a shorter CKA_ID")
    if key.kind == "rsa" and key.bits not in RSA_BITS:
        why = f"it is an RSA key of {key.bits} bits, and {RSA_BITS[0]} to {RSA_BITS[-1]} are needed"
        return _unusable(judged, why, _NEW_RSA)
    if key.kind == "aes" and key.bits not in AES_BITS:
        return _unusable(judged, "the token does not tell its size", _NEW_KEY)
    if not key.decrypt:
        return _unusable(judged, "CKA_DECRYPT is not set", f"set it, or {_NEW_KEY}")
    return _with_rsa(judged, rules) if key.kind == "rsa" else _with_scheme(judged, beside, rules)


def _is_rsa_in_use(key: Key) -> bool:
    return key.token.kind == "rsa" and key.state is not KeyState.UNUSABLE


def _with_rsa(key: Key, rules: Rules) -> Key:
    if not rules.picked.get((key.place, key.cka_id, b""), RSA.enc):
        return _unusable(
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
        return _unusable(key, error.message, error.hint)
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


def _unusable(key: Key, reason: str, hint: str) -> Key:
    return replace(key, state=KeyState.UNUSABLE, reason=reason, hint=hint)
