"""Which key writes, which keys read: the picture of the token's keys, kept up to date.

The token is looked at every `refresh` seconds and whenever the picture may be out of date, so that no request waits
for a look. The rules are in `kmsd.picture`; knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Final

from kmsd.errors import AlreadyExists, Conflict, InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable
from kmsd.hsm import keys as token_keys
from kmsd.hsm.connection import Hsm
from kmsd.hsm.keys import Kind
from kmsd.picture import EMPTY, Key, Picture, check_label, judge, key_id_bytes, new_key_id, newest_first

_LOOK_PAUSE: Final = 0.25
"""Seconds between looks that requests ask for (an unknown kid), so that garbage cannot keep the token busy."""
_VERIFY_PAUSE: Final = 30.0
_VERIFY_PAUSE_MOST: Final = 600.0
"""Seconds between re-initialisations that ask for a write key which is missed: from the first up to the second."""


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
        self._verify_pause = _VERIFY_PAUSE
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
            return self._hsm.error.again()
        if not self.seen:
            return Unavailable(f"the keys on {self._hsm.name} have not been looked at yet", "try again in a moment")
        for problem in self.picture.problems:
            if problem.fatal:
                return Misconfigured(problem.message, problem.hint)
        return Misconfigured(
            f"there is no write key on {self._hsm.name}", f"make one: kmsctl keygen {self.write_label}"
        )

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
            found = newest_first(
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
        if not missed:
            self._verify_pause = _VERIFY_PAUSE
        elif monotonic() - self._verified > self._verify_pause:
            # Less and less often: each time stops the other keys for a moment.
            self._verify_pause = min(self._verify_pause * 2, _VERIFY_PAUSE_MOST)
            return True
        return False

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
