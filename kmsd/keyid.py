"""A key's identity and its spellings. The identity is CKA_ID, a string of bytes; a spelling is text that names it.

kmsd answers one spelling (`text`). Other programs write others of the same bytes, and hexadecimal digits are text, too,
so a text may name several identities: which of them is meant, the keys that exist decide.

Pure; imports nothing of ours.
"""

from __future__ import annotations

import re
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
