"""The keys of a token at one moment, judged: the rules of which key writes and which keys read.

Pure functions over a list of keys, so that every order of events can be tried on them; looks at no token itself.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from kmsd.crypto.gcm import enc_for
from kmsd.crypto.jwe import header as native_header
from kmsd.crypto.legacy import header as legacy_header
from kmsd.errors import InvalidRequest
from kmsd.hsm.keys import TokenKey

MAX_KEY_ID: Final = 512
"""Characters. kube-apiserver takes under 1024; the rest is room for the ciphertext beside it."""
SAME_ID_HINT: Final = "give all but one another CKA_ID, with a tool of the token's such as pkcs11-tool --set-id"
_NEW_KEY: Final = "make a new key under a free label: kmsctl keygen LABEL"
_MAY_NOT_WRITE: Final = "set it, or choose another write label (--p11-key-label) and make its key"
_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class State(Enum):
    WRITE = "write"
    READABLE = "readable"
    PENDING = "pending"
    UNUSABLE = "unusable"
    COMPANION = "companion"


@dataclass(frozen=True)
class Problem:
    """Something an operator should know. fatal: it keeps kmsd from serving."""

    message: str
    hint: str
    fatal: bool


@dataclass(frozen=True)
class Key:
    """One key of the keyring.

    key_id: text of CKA_ID, empty if there is none. key_id_sha256: lower hex, as kube-apiserver logs it.
    header: first JWE segment when this key writes, native form; legacy_header: in the ancestor's form.
    """

    token: TokenKey
    key_id: str
    key_id_sha256: str
    state: State
    reason: str
    hint: str
    created_ms: int
    header: bytes
    legacy_header: bytes

    @property
    def label(self) -> str:
        return self.token.label

    @property
    def cka_id(self) -> bytes:
        return self.token.cka_id

    @property
    def reads(self) -> bool:
        return self.state in (State.WRITE, State.READABLE, State.PENDING)


@dataclass(frozen=True)
class Picture:
    """The keys of the token at one moment, judged."""

    keys: tuple[Key, ...]
    write: Key | None
    by_key_id: Mapping[str, Key]
    problems: tuple[Problem, ...]


def key_id_text(cka_id: bytes) -> str:
    """CKA_ID as it goes over the wire: as it is if printable ASCII, else 0x and lower hex."""
    if cka_id and all(0x20 < byte < 0x7F for byte in cka_id):
        return cka_id.decode("ascii")
    return "0x" + cka_id.hex() if cka_id else ""


def key_id_bytes(text: str) -> bytes:
    """CKA_ID for a key_id that an operator gives. Raises InvalidRequest."""
    if not 0 < len(text) <= MAX_KEY_ID or not all(0x20 < ord(character) < 0x7F for character in text):
        raise InvalidRequest(
            f"a key id has 1 to {MAX_KEY_ID} printable ASCII characters and no spaces",
            "leave it out: kmsd makes one",
        )
    return text.encode("ascii")


def new_key_id() -> str:
    """A version 7 UUID (RFC 9562, 5.7): tokens keep no time of creation, so the identity carries it."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def created_ms(key_id: str) -> int:
    """Milliseconds since the epoch that a version 7 UUID carries, else 0."""
    return int(key_id[:8] + key_id[9:13], 16) if _UUID7.fullmatch(key_id) else 0


def check_label(label: str) -> None:
    """Raises InvalidRequest unless this can be a label."""
    if not label or len(label.encode()) > 255 or not label.isprintable():
        raise InvalidRequest("a label has 1 to 255 bytes and no control characters", "choose another label")


def judge(found: Iterable[TokenKey], write_label: str, token: str) -> Picture:
    """The rules, over whatever the token shows.

    The write key is the newest key labelled `write_label`, else the newest labelled `<write_label>.pending`;
    every other usable key reads. Two keys with one key_id are both refused: nobody could tell which is meant.
    """
    keys = [_judge_one(key) for key in found]
    counts = Counter(key.key_id for key in keys if key.token.kind == "aes" and key.key_id)
    keys = [
        _unusable(
            key,
            f"{counts[key.key_id]} keys have this key id",
            SAME_ID_HINT,
        )
        if key.token.kind == "aes" and counts[key.key_id] > 1
        else key
        for key in keys
    ]
    problems: list[Problem] = []
    pending_label = f"{write_label}.pending"
    writers = newest_first(k for k in keys if k.reads and k.token.encrypt and k.label == write_label)
    waiting = newest_first(k for k in keys if k.reads and k.token.encrypt and k.label == pending_label)
    write = writers[0] if writers else waiting[0] if waiting else None
    if len(writers) > 1:
        problems.append(
            Problem(
                f"{len(writers)} keys on {token} are labelled {write_label!r}; the newest writes, all read",
                "relabel the older ones (p11tool --set-label)",
                fatal=False,
            )
        )
    problems.extend(
        Problem(f"key {write_label!r} on {token} cannot serve: {reason}", hint, fatal=write is None)
        for key in keys
        if key.label == write_label and key.token.kind == "aes"
        for reason, hint in [_why_not_writing(key)]
        if reason
    )
    if write is None and not problems:
        problems.append(
            Problem(
                f"there is no key labelled {write_label!r} on {token}",
                f"make one: kmsctl keygen {write_label}",
                fatal=True,
            )
        )
    keys = [
        replace(key, state=State.WRITE)
        if key is write
        else replace(key, state=State.PENDING)
        if key.reads and key.label == pending_label
        else key
        for key in keys
    ]
    by_key_id = {key.key_id: key for key in keys if key.reads}
    return Picture(
        keys=tuple(sorted(keys, key=lambda k: (k.label, k.key_id))),
        write=by_key_id[write.key_id] if write else None,
        by_key_id=by_key_id,
        problems=tuple(problems),
    )


def _why_not_writing(key: Key) -> tuple[str, str]:
    """(reason, hint) why this key cannot write; ("", "") if it can."""
    if not key.reads:
        return key.reason, key.hint
    if not key.token.encrypt:
        return (
            "CKA_ENCRYPT is not set, so it only reads",
            _MAY_NOT_WRITE,
        )
    return "", ""


def newest_first(keys: Iterable[Key]) -> list[Key]:
    # A key without a time in its id is older than any with one: kmsd did not make it.
    return sorted(keys, key=lambda key: (key.created_ms, key.cka_id), reverse=True)


def _judge_one(key: TokenKey) -> Key:
    key_id = key_id_text(key.cka_id)
    judged = Key(
        token=key,
        key_id=key_id,
        key_id_sha256=hashlib.sha256(key_id.encode()).hexdigest() if key_id else "",
        state=State.READABLE if key.kind == "aes" else State.COMPANION,
        reason="",
        hint="",
        created_ms=created_ms(key_id),
        header=native_header(key_id, enc_for(key.bits)),
        legacy_header=legacy_header(key.label),
    )
    match key.kind:
        case "other":
            return _unusable(judged, "it is neither an AES nor an HMAC key", "kmsd leaves it alone")
        case "hmac":
            return judged
        case "aes":
            pass
    if not key.cka_id:
        return _unusable(
            judged,
            "it has no CKA_ID, so nothing could name it",
            f"give it one: kmsctl keys adopt {key.label}",
        )
    if len(key_id) > MAX_KEY_ID:
        return _unusable(judged, f"its key id has over {MAX_KEY_ID} characters", "give it a shorter CKA_ID")
    if key.bits not in (128, 192, 256):
        return _unusable(judged, "the token does not tell its size", _NEW_KEY)
    if not key.decrypt:
        return _unusable(judged, "CKA_DECRYPT is not set", f"set it, or {_NEW_KEY}")
    return judged


def _unusable(key: Key, reason: str, hint: str) -> Key:
    return replace(key, state=State.UNUSABLE, reason=reason, hint=hint)


EMPTY: Final = Picture((), None, {}, ())
