"""Rotation as moves of labels: what is to be done next, from nothing but the keys that the tokens show.

A rotation of L makes a key labelled `L.pending`, tries it, gives it the label L, and then labels the key that was L
`L@<UTC>`. Nothing of it is kept anywhere but on the token, so a kmsd that dies between two steps is finished by
whichever sees the token next, and two that rotate at once help each other.

The new key takes L before the old one loses it. The write key is the newest key labelled L, so the set of keys
labelled L only ever gains a newer one or loses one that is not the newest: the write key never goes back to an
earlier key, in whatever order the steps of several nodes fall, and there is no moment without one. A reader that
finds two keys labelled L follows the same rule and never needs to know how far anybody is.

Pure: looks at no token, reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmsd.hsm.host.keys import Kind
from kmsd.keys.key import Inventory, Key, newest_first
from kmsd.keys.labels import companion_label, old_label, pending_label


@dataclass(frozen=True)
class Move:
    """A change of label: give the key with this identity another one, if it still has `from_label`.

    tried: the key takes over the writing, so it must have shown that it encrypts and decrypts.
    """

    place: str
    cka_id: bytes
    kind: Kind
    from_label: str
    to_label: str
    tried: bool = False


def moves(inventory: Inventory, label: str, unix: float) -> tuple[Move, ...]:
    """Return what brings the keys nearer to rest; nothing if they rest. Each is safe alone, in any order and however
    late: look again after it.

    A key that lacks a way to write on its token gives way to a newer one, too.
    At rest exactly one usable key is labelled `label` (if any was, or was pending), none is pending, and the HMAC key
    of a pair has the label of its AES key. unix: seconds, for the labels of keys that write no more.
    """
    usable = [key for key in inventory.keys if key.token.seals and key.may_write]
    writers = newest_first(key for key in usable if key.label == label)
    waiting = newest_first(key for key in usable if key.label == pending_label(label))
    wanted: list[Move] = []
    if waiting and (not writers or waiting[0].age > writers[0].age):
        wanted.append(_move(waiting.pop(0), label, tried=True))
    # The key that writes keeps its label here: it is put aside when a newer one has been seen with it.
    wanted.extend(_move(key, old_label(label, unix)) for key in (*waiting, *writers[1:]))
    if writers:
        lacking = (key for key in inventory.keys if key.label == label and key.lacks_scheme)
        wanted.extend(_move(key, old_label(label, unix)) for key in lacking if key.age < writers[0].age)
    wanted.extend(_companions(inventory, label))
    return tuple(wanted)


def _companions(inventory: Inventory, label: str) -> Sequence[Move]:
    """Return the moves by which the HMAC keys of pairs follow their AES keys."""
    return [
        _move(other, companion_label(key.label))
        for key in inventory.keys
        if key.token.kind == "aes" and _of(key.label, label)
        for other in [inventory.companion(key)]
        if other is not None
        and other.label != companion_label(key.label)
        and other.label.endswith(companion_label(""))
        and _of(other.label, label)
    ]


def _of(label: str, role: str) -> bool:
    """Return whether kmsd made this label for the role: others are an operator's, and left alone."""
    return label in (role, pending_label(role), companion_label(role)) or label.startswith(
        (f"{role}@", f"{role}.retired@", pending_label(role) + ".")
    )


def _move(key: Key, to_label: str, *, tried: bool = False) -> Move:
    return Move(key.place, key.cka_id, key.token.kind, key.label, to_label, tried)
