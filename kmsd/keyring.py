"""Which key writes, which keys read, and what they are called on the wire.

Keeps a picture of the keys on the token, looked at every `refresh` seconds and whenever it may be out of date, so
that no request waits for a look. The rules are pure functions over a list of keys; knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from time import monotonic
from typing import Final

from kmsd.crypto.gcm import enc_for
from kmsd.crypto.jwe import header as native_header
from kmsd.crypto.legacy import header as legacy_header
from kmsd.errors import AlreadyExists, Conflict, InvalidRequest, KmsdError, Misconfigured, NotFound
from kmsd.hsm import keys as token_keys
from kmsd.hsm.connection import Hsm
from kmsd.hsm.keys import Kind, TokenKey

MAX_KEY_ID: Final = 512
"""Characters. kube-apiserver takes under 1024; the rest is room for the ciphertext beside it."""
_LOOK_PAUSE: Final = 0.25
"""Seconds between looks that requests ask for (an unknown kid), so that garbage cannot keep the token busy."""
_VERIFY_PAUSE: Final = 30.0
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
        _unusable(key, f"{counts[key.key_id]} keys have this key id", "give all but one another CKA_ID")
        if key.token.kind == "aes" and counts[key.key_id] > 1
        else key
        for key in keys
    ]
    problems: list[Problem] = []
    pending_label = f"{write_label}.pending"
    writers = _newest_first(k for k in keys if k.reads and k.token.encrypt and k.label == write_label)
    waiting = _newest_first(k for k in keys if k.reads and k.token.encrypt and k.label == pending_label)
    write = writers[0] if writers else waiting[0] if waiting else None
    if len(writers) > 1:
        problems.append(
            Problem(
                f"{len(writers)} keys on {token} are labelled {write_label!r}; the newest writes, all read",
                "give the older ones another label",
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
        return "CKA_ENCRYPT is not set, so it only reads", "set it, or give it another label and make a new key"
    return "", ""


def _newest_first(keys: Iterable[Key]) -> list[Key]:
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
        return _unusable(judged, "the token does not tell its size", "make a new key: kmsctl keygen")
    if not key.decrypt:
        return _unusable(judged, "CKA_DECRYPT is not set", "set it, or make a new key: kmsctl keygen")
    return judged


def _unusable(key: Key, reason: str, hint: str) -> Key:
    return replace(key, state=State.UNUSABLE, reason=reason, hint=hint)


EMPTY: Final = Picture((), None, {}, ())


class Keyring:
    """The keys of one token, as last seen.

    on_change: called after a look that changed which key writes or which keys there are.
    """

    def __init__(self, hsm: Hsm, *, write_label: str, on_change: Callable[[Picture, Picture], None]) -> None:
        self.write_label = write_label
        self.picture = EMPTY
        self.seen = False
        self._hsm = hsm
        self._on_change = on_change
        self._looking: asyncio.Task[None] | None = None
        self._looked = -1e9
        self._verified = -1e9
        self._wrote = False
        self._changing = asyncio.Lock()

    def write_key(self) -> Key:
        """The key that encrypts. Raises why there is none."""
        key = self.picture.write
        if key is None:
            raise self.why_none()
        return key

    def why_none(self) -> KmsdError:
        if self._hsm.connected is None:
            return self._hsm.error
        for problem in self.picture.problems:
            if problem.fatal:
                return Misconfigured(problem.message, problem.hint)
        return self._hsm.error

    async def find(self, key_id: str) -> Key:
        """The key with this id, after a fresh look at the token if it is unknown. Raises NotFound."""
        key = self.picture.by_key_id.get(key_id)
        if key is None:
            await self.look_soon()
            key = self.picture.by_key_id.get(key_id)
        if key is None:
            for known in self.picture.keys:
                if known.key_id == key_id and known.reason:
                    raise Misconfigured(f"key {key_id!r} cannot serve: {known.reason}", known.hint)
            raise NotFound(
                f"there is no key with key id {_short(key_id)} on {self._hsm.name}",
                "restore the key to the token; without it this data cannot be read",
            )
        return key

    async def labelled(self, label: str) -> list[Key]:
        """The readable keys that hold this label or held it before a rotation (`label@...`), newest first.

        After a fresh look at the token if there are none. Raises NotFound.
        """
        for fresh in (False, True):
            if fresh:
                await self.look_soon()
            found = _newest_first(
                key
                for key in self.picture.keys
                if key.reads and (key.label == label or key.label.startswith(f"{label}@"))
            )
            if found:
                return found
        raise NotFound(
            f"there is no key labelled {_short(label)} on {self._hsm.name}",
            "restore the key to the token; without it this data cannot be read",
        )

    async def look_soon(self) -> None:
        """A look that begins after this call, a little later if there was one just now: however many requests
        ask, the token is looked at a few times a second. Raises KmsdError if it is away."""
        await asyncio.sleep(max(0.0, self._looked + _LOOK_PAUSE - monotonic()))
        if self._looking is None:
            self._start_looking()
        await self._join()

    async def look(self) -> None:
        """Look at the token now. Raises KmsdError if it is away."""
        while self._looking is not None:
            # That look may have begun before what the caller wants to see.
            with contextlib.suppress(KmsdError):
                await self._join()
        self._start_looking()
        await self._join()

    def _start_looking(self) -> None:
        self._looked = monotonic()
        self._looking = asyncio.create_task(self._look(), name="keyring-look")
        self._looking.add_done_callback(self._look_done)

    async def _join(self) -> None:
        if self._looking is not None:
            await asyncio.shield(self._looking)

    def _look_done(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever waits for the look has it; nobody may be waiting

    async def _look(self) -> None:
        found = await self._hsm.run(token_keys.list_keys, timeout=30.0)
        before = self.picture
        after = judge(found, self.write_label, self._hsm.name)
        if self._suspicious(before, after):
            # A token that has gone shows no keys on some modules: only a module that starts anew tells.
            self._verified = monotonic()
            await self._hsm.reconnect("keys vanished")
            found = await self._hsm.run(token_keys.list_keys, timeout=30.0)
            after = judge(found, self.write_label, self._hsm.name)
        self.picture = after
        self.seen = True
        self._wrote = self._wrote or after.write is not None
        if {k.token for k in before.keys} != {k.token for k in after.keys}:
            self._hsm.forget_handles()
            self._on_change(before, after)

    def _suspicious(self, before: Picture, after: Picture) -> bool:
        if before.write is not None and before.write.key_id not in after.by_key_id:
            return True
        if before.keys and not after.keys:
            return True
        # The token may have gone just when the module started anew: a write key that is missed is asked for again.
        missed = self._wrote and after.write is None
        return missed and monotonic() - self._verified > _VERIFY_PAUSE

    async def generate(
        self, label: str, kind: Kind, bits: int, key_id: str, *, if_not_exists: bool
    ) -> tuple[Key, bool]:
        """Make a key; (key, True), or with if_not_exists the one that holds the label and False.

        Raises InvalidRequest, AlreadyExists, and what the token says.
        """
        check_label(label)
        allowed = (128, 192, 256) if kind == "aes" else (128, 192, 256, 384, 512)
        bits = bits or 256
        if kind == "other" or bits not in allowed:
            raise InvalidRequest(
                f"an {kind.upper()} key cannot have {bits} bits",
                f"choose one of {', '.join(map(str, allowed))}",
            )
        async with self._changing:
            return await self._generate(label, kind, bits, key_id, if_not_exists)

    async def _generate(self, label: str, kind: Kind, bits: int, key_id: str, if_not_exists: bool) -> tuple[Key, bool]:
        await self.look()
        for key in self.picture.keys:
            if key.label == label and key.token.kind == kind:
                if if_not_exists:
                    return key, False
                raise AlreadyExists(
                    f"{self._hsm.name} has a key labelled {label!r} already",
                    "choose another label, or --if-not-exists",
                )
        wanted = key_id or new_key_id()
        cka_id = key_id_bytes(wanted)
        if any(key.cka_id == cka_id and key.token.kind == kind for key in self.picture.keys):
            raise AlreadyExists(f"{self._hsm.name} has a key with key id {wanted!r} already", "choose another id")
        await self._hsm.run_rw(token_keys.generate, label, cka_id, kind, bits)
        return await self._made(cka_id, kind), True

    async def adopt(self, label: str, key_id: str) -> Key:
        """Give a CKA_ID to the AES key with this label that lacks one. Raises NotFound, Conflict."""
        check_label(label)
        async with self._changing:
            return await self._adopt(label, key_id)

    async def _adopt(self, label: str, key_id: str) -> Key:
        await self.look()
        labelled = [key for key in self.picture.keys if key.label == label and key.token.kind == "aes"]
        if not labelled:
            raise NotFound(f"there is no AES key labelled {label!r} on {self._hsm.name}", "kmsctl keys list shows all")
        if all(key.cka_id for key in labelled):
            raise Conflict(f"key {label!r} has a CKA_ID already: {labelled[0].key_id}", "there is nothing to do")
        wanted = key_id or new_key_id()
        cka_id = key_id_bytes(wanted)
        if any(key.cka_id == cka_id for key in self.picture.keys):
            raise AlreadyExists(f"{self._hsm.name} has a key with key id {wanted!r} already", "choose another id")
        await self._hsm.run_rw(token_keys.set_id, label, cka_id)
        return await self._made(cka_id, "aes")

    async def _made(self, cka_id: bytes, kind: Kind) -> Key:
        await self.look()
        for key in self.picture.keys:
            if key.cka_id == cka_id and key.token.kind == kind:
                return key
        raise Conflict("the key was made and is gone again", "look for another program that uses this token")


def _short(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown)
