"""A key's identity and its spellings. The identity is CKA_ID, a string of bytes; a spelling is text that names it.

kmsd answers one spelling (`text`). Other programs write others of the same bytes, and hexadecimal digits are text, too,
so a text may name several identities: which of them is meant, the keys that exist decide. Where a text may be a label
as well (what k8s-kms-plugin wrote names one), `Names` holds both.

Pure; imports nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_HEX: Final = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})+)")


def text(cka_id: bytes) -> str:
    """Return the key_id of a CKA_ID: its bytes if they are printable ASCII, else "0x" and lower hex. Empty for none."""
    if cka_id and all(0x20 < byte < 0x7F for byte in cka_id):
        return cka_id.decode("ascii")
    return "0x" + cka_id.hex() if cka_id else ""


def named(spelling: str) -> frozenset[bytes]:
    """Return every CKA_ID that a text may name: the text's own bytes, and those whose hexadecimal digits it is, in
    either case, with "0x" or without."""
    found = set()
    if spelling:
        found.add(spelling.encode("utf-8", "surrogatepass"))
    if digits := _HEX.fullmatch(spelling):
        found.add(bytes.fromhex(digits[1]))
    return frozenset(found)


def means(spelling: str, key_id: str) -> bool:
    """Return whether a text may name the key whose id kmsd answers as `key_id`."""
    return any(text(cka_id) == key_id for cka_id in named(spelling))


def alike(one: str, other: str) -> bool:
    """Return whether two texts may name the same key."""
    return not named(one).isdisjoint(named(other))


def is_answered(spelling: str) -> bool:
    """Return whether a text is the spelling of kmsd for every identity that it may name. kmsd never spells an identity
    as hexadecimal digits without "0x": where a text is of such digits, another program may have written it."""
    return all(text(cka_id) == spelling for cka_id in named(spelling))


@dataclass(frozen=True)
class Names:
    """The names of the keys that kmsd has. key_ids: as kmsd answers them. labels: those that the keys have or had."""

    key_ids: frozenset[str]
    labels: frozenset[str]

    @classmethod
    def of(cls, keys: Iterable[tuple[str, Iterable[str]]]) -> Names:
        """Return the names of keys, each given as its key id and its labels; either may be empty."""
        every = [(key_id, frozenset(labels)) for key_id, labels in keys]
        ids = frozenset(key_id for key_id, _ in every)
        return cls(ids - {""}, frozenset().union(*(labels for _, labels in every)) - {""})

    def include(self, *spellings: str) -> bool:
        """Return whether one of these texts may name one of the keys, by its id in any spelling or by a label."""
        return any(
            each in self.labels or any(text(cka_id) in self.key_ids for cka_id in named(each)) for each in spellings
        )
