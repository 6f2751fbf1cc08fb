"""Judge the keys of all tokens at one moment: which key writes and which keys read.

The functions are pure: they take a list of keys and look at no token, so every order of events can be tried on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from kmsd.hsm.host.keys import TokenKey
from kmsd.keys import inventory_problems as problems
from kmsd.keys.judging import Rules, bare, judge_one, unusable
from kmsd.keys.key import Inventory, Key, KeyState, newest_first
from kmsd.keys.labels import companion_label, is_archived, pending_label, role

SAME_ID_HINT: Final = "kmsctl keys list shows their labels: give all but one another CKA_ID, with the token's own tool"
_PUBLIC: Final = "its object is public (CKA_PRIVATE is false): whoever reaches the token without a PIN may have made it"
_NO_RULES: Final = Rules()
_NOTHING: Final[Mapping[str, Sequence[TokenKey]]] = {}


def judge(
    found: Mapping[str, Sequence[TokenKey]],
    write_label: str,
    where: str,
    rules: Rules = _NO_RULES,
    public: Mapping[str, Sequence[TokenKey]] = _NOTHING,
    others_write: Collection[str] = (),
) -> Inventory:
    """Judge whatever the tokens show. found: keys by name of the token; where: the tokens in words. public:
    objects that anybody may have made, which make no difference to any key. others_write: labels whose newest key
    writes, too, for others, and whose pending one is about to.

    The write key is the newest key labelled `write_label`, else the newest labelled `<write_label>.pending`, on
    whichever token; every other usable key reads. Two keys with one key_id are both refused: nobody could tell
    which is meant.
    """
    keys = [judge_one(key, place, shown, rules, write_label) for place, shown in found.items() for key in shown]
    # A key of another program with the id of one of ours does no harm: it is never used.
    counts = Counter(key.key_id for key in keys if key.key_id and (key.token.kind == "aes" or _is_rsa_in_use(key)))
    keys = [
        unusable(key, f"{counts[key.key_id]} keys have this key id", SAME_ID_HINT)
        if counts[key.key_id] > 1 and (key.token.kind == "aes" or _is_rsa_in_use(key))
        else key
        for key in keys
    ]
    # A key that signs is asked for by its token, its id and its kind.
    signing = Counter(_pair_of(key) for key in keys if key.state is KeyState.SIGNING)
    twins = {pair: number for pair, number in signing.items() if number > 1}
    keys = [
        replace(key, reason=f"{twins[_pair_of(key)]} keys have this key id", hint=SAME_ID_HINT)
        if twins and key.state is KeyState.SIGNING and _pair_of(key) in twins
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
    pending = {pending_label(label) for label in (write_label, *others_write)}
    others = _judge_public(public, keys, write_label, rules)
    found_wrong = [
        *problems.of_writing(keys, writers, write, others, write_label, where, rules),
        *problems.of_exposed(keys, where),
        *problems.of_trusted_public(keys, where),
        *problems.of_planted(others, where),
    ]
    keys = [
        replace(key, state=KeyState.WRITE)
        if id(key) in writing
        else replace(key, state=KeyState.PENDING)
        if key.reads and key.label in pending
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
        problems=tuple(found_wrong),
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
            key = bare(token, place)
            held = token.label.removesuffix(companion_label(""))
            if token.cka_id in ids or {token.label, role(token.label), role(held)} & roles:
                key = replace(key, state=KeyState.PLANTED, reason=_PUBLIC, hint=problems.DELETE_PUBLIC)
            else:
                key = unusable(
                    key, _PUBLIC, "kmsd leaves it alone; one that you made yourself: kmsctl keys adopt LABEL --public"
                )
            judged.append(key)
    return tuple(sorted(judged, key=lambda k: (k.label, k.key_id, k.place)))


def _is_rsa_in_use(key: Key) -> bool:
    return key.token.kind == "rsa" and key.token.seals and key.state is not KeyState.UNUSABLE


def _pair_of(key: Key) -> tuple[str, str, str]:
    return key.place, key.key_id, key.token.kind
