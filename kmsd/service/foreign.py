"""Read what k8s-kms-plugin and its successor wrote with AES-CBC, so that a cluster can move over: decide which key
reads it, and whether it may be read at all.

The plugin's own aes-cbc format authenticates nothing: whoever can write to etcd can alter what it holds. It is read
only if the configuration allows it, with the one key that it names; each reading is counted, and warned about.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from time import monotonic
from typing import Final

from kmsd.crypto import legacy_cbc
from kmsd.crypto.gcm import TagMismatch
from kmsd.deadline import left, within
from kmsd.errors import Conflict, DeadlineExceeded, InvalidRequest, KmsdError, Misconfigured, NotFound, Overloaded
from kmsd.formats import jwe, k8s_kms_plugin, keyid
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.keys.key import Key, KeyState
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import role
from kmsd.observe import logs
from kmsd.problem import About, Calls, Problem
from kmsd.service.local import Opened, check_named

log = logs.get_logger("kmsd.legacy")

_WARN_PAUSE: Final = 60.0
_TURNS: Final = 16
"""The most values without authentication that are read at once."""
_FAILED_SECONDS: Final = 60.0
"""Seconds for which a value that could not be read keeps its turn: a padding oracle gives 16 answers a minute."""
_FAILED_ANSWER: Final = 0.1
"""Seconds from the beginning of a reading to the answer that it failed: more than the token takes."""
_REWRITE: Final = "rewrite what is stored (kubectl get secrets -A -o json | kubectl replace -f -), then unset it"


class Foreign:
    """The reader of foreign aes-cbc values. allowed: whether what is not authenticated may be read. pinned: label or
    key id of the key for it. hmac_label: of the HMAC key. wrote: gives the key_ids that were the write key here.

    read: how many values of other programs were read, by format."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        allowed: bool,
        pinned: str,
        hmac_label: str,
        wrote: Callable[[], Collection[str]],
    ) -> None:
        self._keyring = keyring
        self._allowed = allowed
        self._pinned = pinned
        self._hmac_label = hmac_label
        self._wrote = wrote
        self._turns = asyncio.Semaphore(_TURNS)
        self._warned = -1e9
        self.read: Counter[CiphertextFormat] = Counter()

    @property
    def problems(self) -> list[Problem]:
        if not self._allowed:
            return []
        refused = self._refusal()
        if refused is not None:
            about = About(setting="legacy.key", calls=Calls("Decrypt", refused.code))
            return [Problem(refused.message, refused.hint, fatal=False, about=about)]
        return [
            Problem(
                f"legacy.allow_unauthenticated is set: {self.read[CiphertextFormat.K8S_KMS_PLUGIN_CBC]} values that "
                "nothing protects were read since kmsd started",
                _REWRITE,
                fatal=False,
                about=About(setting="legacy.allow_unauthenticated"),
            )
        ]

    def _refusal(self) -> KmsdError | None:
        """Return why nothing is read although it is allowed, as far as can be told now."""
        try:
            self._check_pinned()
        except KmsdError as error:
            return error
        return None

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Opened:
        """Return the plaintext and its key. until: the call's deadline. Raises KmsdError."""
        try:
            parsed = k8s_kms_plugin.parse_cbc(ciphertext)
        except jwe.JweError as error:
            raise InvalidRequest(
                f"the ciphertext cannot be read: {error}", "it is damaged: restore the object from a backup of etcd"
            ) from error
        async with within(until):
            key = await (self._keyring.find(keyid.text(parsed.cka_id)) if parsed.authenticated else self.pinned_key())
        if key.token.kind != "aes":
            raise InvalidRequest(
                "the ciphertext names an RSA key, and is encrypted with AES-CBC",
                "restore the object from a backup of etcd",
            )
        check_named(key_id, key)
        if parsed.authenticated:
            plaintext = await self._open(key, parsed, until)
            self.read[CiphertextFormat.KEYSEALER] += 1
        else:
            plaintext = await self._open_unprotected(key, parsed, until)
            self._count(key)
        return Opened(plaintext, key)

    async def _open(self, key: Key, parsed: k8s_kms_plugin.LegacyCbc, until: float) -> bytes:
        hsm = self._keyring.hsm(key)
        await hsm.settled(until)
        return await legacy_cbc.decrypt(hsm, key.cka_id, self.mac(key), parsed, left(until))

    async def _open_unprotected(self, key: Key, parsed: k8s_kms_plugin.LegacyCbc, until: float) -> bytes:
        """Return the plaintext of what nothing authenticates. Raises KmsdError.

        Whether zeros end it tells something of it to whoever altered it (a padding oracle). So every failure is one
        answer after one time, and few are given in a minute: a value that does not read keeps its turn that long.
        """
        try:
            async with within(until):
                await self._turns.acquire()
        except DeadlineExceeded:
            raise Overloaded(
                f"{_TURNS} values that nothing protects did not read: none is tried for {_FAILED_SECONDS:.0f} s",
                "look for who writes such values to etcd; the call may be repeated in a minute",
            ) from None
        began = monotonic()
        hold = 0.0
        try:
            return await self._open(key, parsed, until)
        except TagMismatch:
            hold = _FAILED_SECONDS
            await asyncio.sleep(began + _FAILED_ANSWER - monotonic())
            raise
        finally:
            asyncio.get_running_loop().call_later(hold, self._turns.release)

    async def pinned_key(self) -> Key:
        """Return the key that reads what names none and nothing authenticates. Raises KmsdError if none does."""
        if not self._allowed:
            raise Conflict(
                "this was written by k8s-kms-plugin with aes-cbc, whose tag authenticates nothing: it is not read",
                "to move over, set legacy.allow_unauthenticated and legacy.key for as long as it takes; whoever can "
                "write to etcd can alter such values unseen",
            )
        if not self._keyring.seen:
            await self._keyring.look_soon()
        return self._check_pinned()

    def _check_pinned(self) -> Key:
        """Return the key that legacy.key names. Raises KmsdError if it may not read what nothing authenticates."""
        if not self._pinned:
            raise Misconfigured(
                "legacy.allow_unauthenticated is set, and legacy.key does not say with which key to read",
                "name the AES key of k8s-kms-plugin by its label or key id",
            )
        key = self._select()
        if why := self._wrote_native(key):
            raise Conflict(
                f"legacy.key names {self._pinned!r}, and {why}: if values that nothing authenticates were read with "
                "it, whoever can write to etcd could alter and read what it wrote in kmsd's own format",
                "let kmsd write with another key from the beginning (keys.label): kmsctl migrate plan shows how; what "
                "is left in the old format k8s-kms-plugin itself can read and rewrite",
            )
        if not key.reads or key.token.kind != "aes":
            raise Misconfigured(
                f"the key {self._pinned!r} that legacy.key names cannot read: {key.reason or 'it is no AES key'}",
                key.hint or "name the AES key of k8s-kms-plugin by its label or key id",
            )
        return key

    def _wrote_native(self, key: Key) -> str:
        """Return why a key has written, or is going to write, in kmsd's own format, as far as that is known; else
        empty."""
        if key.state in (KeyState.WRITE, KeyState.PENDING) or role(key.label) == self._keyring.write_label:
            return "that is, or was, a write key of kmsd"
        if role(key.label) != key.label:
            return "its label shows that it was a write key of kmsd"
        if key.key_id in self._wrote():
            return "it was the write key of this kmsd"
        return ""

    def _select(self) -> Key:
        try:
            return self._keyring.select(self._pinned)
        except (InvalidRequest, NotFound) as error:
            raise Misconfigured(
                f"legacy.key must name exactly one key, got {self._pinned!r}: {error.message}", error.hint
            ) from error

    def mac(self, key: Key) -> bytes | None:
        """Return the CKA_ID of the HMAC key that goes with an AES key, if there is one."""
        companion = self._keyring.inventory.companion(key)
        if companion is not None:
            return companion.cka_id
        for other in self._keyring.inventory.keys:
            named = self._hmac_label and other.label == self._hmac_label
            if named and other.token.kind == "hmac" and other.place == key.place and other.cka_id:
                return other.cka_id
        return None

    def _count(self, key: Key) -> None:
        self.read[CiphertextFormat.K8S_KMS_PLUGIN_CBC] += 1
        if monotonic() - self._warned > _WARN_PAUSE:
            self._warned = monotonic()
            log.warning(
                "a value that nothing protects was read",
                since_start=self.read[CiphertextFormat.K8S_KMS_PLUGIN_CBC],
                key_id_sha256=key.key_id_sha256,
                hint=_REWRITE,
            )
