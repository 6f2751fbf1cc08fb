"""Name keys: ids that carry the time of making, and labels that carry what a key was. Pure."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from kmsd.errors import Conflict, InvalidRequest, short
from kmsd.hsm.purpose import SIGNING, signing_purpose

MAX_KEY_ID: Final = 512
"""The most characters of a key id. kube-apiserver takes more; the rest is room for the ciphertext beside it."""
_RETIRED: Final = ".retired@"
_BEHIND: Final = re.compile(r"(\.retired)?@[0-9]{8}T[0-9]{6}Z$|\.pending$")
_UUID7: Final = re.compile(
    rf"(?:(?:{'|'.join(SIGNING)})\.)?([0-9a-f]{{8}})-([0-9a-f]{{4}})-7[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"
)


def key_id_bytes(text: str) -> bytes:
    """Return the CKA_ID for a key_id that an operator gives. Raises InvalidRequest."""
    if not 0 < len(text) <= MAX_KEY_ID or not all(0x20 < ord(character) < 0x7F for character in text):
        raise InvalidRequest(
            f"a key id must have 1 to {MAX_KEY_ID} printable ASCII characters and no spaces, got {short(text)}",
            "leave it out: kmsd makes one",
        )
    if signing_purpose(text.encode("ascii")) is not None:
        raise InvalidRequest(
            f"a key id such as {text!r} says that the key signs, and this one is to encrypt",
            "leave it out: kmsd makes one",
        )
    return text.encode("ascii")


def new_key_id(newer_than_ms: int = 0) -> str:
    """Make a version 7 UUID (RFC 9562, 5.7): tokens keep no time of creation, so the identity carries it.

    newer_than_ms: when the newest key was made that this one is to follow, whose clock may have been ahead of ours.
    Raises Conflict if nothing can be newer.
    """
    made = max(time.time_ns() // 1_000_000, newer_than_ms + 1)
    if made >> 48:
        raise Conflict(
            "the newest key's id claims a time that no id can be later than",
            "give that key another CKA_ID, with a tool of the token's such as pkcs11-tool --set-id",
        )
    value = made << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def created_ms(key_id: str) -> int:
    """Return the milliseconds since the epoch that a version 7 UUID carries, be it alone or behind what a key signs;
    else 0."""
    found = _UUID7.fullmatch(key_id)
    return int(found[1] + found[2], 16) if found is not None else 0


def pending_label(label: str) -> str:
    """Return the label of the key that is about to take the label."""
    return f"{label}.pending"


def companion_label(label: str) -> str:
    """Return the label of the HMAC key beside the AES key that has the label."""
    return f"{label}.hmac"


def old_label(label: str, unix: float) -> str:
    """Return the label of a key that had the label until then."""
    return f"{label}@{_stamp(unix)}"


def archived_label(label: str, unix: float) -> str:
    """Return the label of a key that was retired then. label: its present one."""
    return f"{role(label)}{_RETIRED}{_stamp(unix)}"


def is_archived(label: str) -> bool:
    """Return whether a label is that of a key that was retired."""
    return re.search(rf"{re.escape(_RETIRED)}[0-9]{{8}}T[0-9]{{6}}Z$", label) is not None


def role(label: str) -> str:
    """Return the label that a key has or had as the write key: without what rotating and retiring put behind it."""
    return _BEHIND.sub("", label)


def _stamp(unix: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix))


def check_label(label: str) -> None:
    """Raise InvalidRequest unless this can be a label."""
    if not label or len(label.encode()) > 255 or not label.isprintable():
        raise InvalidRequest(
            f"a label must have 1 to 255 bytes and no control characters, got {short(label)}", "choose another label"
        )
