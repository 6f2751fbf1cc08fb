"""Reading what k8s-kms-plugin and its successor wrote with AES-CBC, so that a cluster can move over: which key it is
to be, and whether it may be read at all.

The plugin's own aes-cbc format authenticates nothing: whoever can write to etcd can alter what it holds. It is read
only if the configuration allows it, with the one key that it names; each reading is counted, and warned about.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, Literal

from kmsd import keyid
from kmsd.crypto import jwe, legacy, legacy_cbc
from kmsd.errors import Conflict, InvalidRequest, Misconfigured, NotFound
from kmsd.keyring import Keyring
from kmsd.observe import logs
from kmsd.picture import Key, Problem
from kmsd.service import Decrypted

log = logs.get_logger("kmsd.legacy")

_WARN_PAUSE: Final = 60.0
_REWRITE: Final = "rewrite what is stored (kubectl get secrets -A -o json | kubectl replace -f -), then unset it"


class Foreign:
    """allowed: whether what is not authenticated may be read. pinned: label or key id of the key for it.
    hmac_label: of the HMAC key. used: as in LocalService."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        allowed: bool,
        pinned: str,
        hmac_label: str,
        used: Callable[[str, Literal["encrypt", "decrypt"]], None],
    ) -> None:
        self._keyring = keyring
        self._allowed = allowed
        self._pinned = pinned
        self._hmac_label = hmac_label
        self._used = used
        self._warned = -1e9
        self.unauthenticated = 0

    @property
    def problems(self) -> list[Problem]:
        if not self._allowed:
            return []
        return [
            Problem(
                f"legacy.allow_unauthenticated is set: {self.unauthenticated} values that nothing protects were read "
                "since kmsd started",
                _REWRITE,
                fatal=False,
            )
        ]

    async def decrypt(self, ciphertext: bytes, key_id: str | None, timeout: float) -> Decrypted:
        """The plaintext. Raises KmsdError."""
        try:
            parsed = legacy.parse_cbc(ciphertext)
        except jwe.JweError as error:
            raise InvalidRequest(
                f"the ciphertext cannot be read: {error}", "it is damaged; restore the object from a backup"
            ) from error
        key = await self._keyring.find(keyid.text(parsed.cka_id)) if parsed.authenticated else await self.pinned_key()
        if key.token.kind != "aes":
            raise InvalidRequest("the ciphertext names an RSA key, and is of AES-CBC", "restore it from a backup")
        if key_id is not None and key.key_id != key_id:
            raise InvalidRequest(
                "the request's key_id is not that of the key that reads this ciphertext",
                "the stored object mixes parts of two; restore it from a backup",
            )
        mac = self.mac(key)
        hsm = self._keyring.hsm(key)
        await hsm.settled(timeout)
        plaintext = await legacy_cbc.decrypt(hsm, key.cka_id, mac, parsed, timeout)
        if not parsed.authenticated:
            self._count(key)
        self._used(key.key_id, "decrypt")
        return Decrypted(plaintext, key)

    async def pinned_key(self) -> Key:
        """The key that reads what names none and nothing authenticates. Raises KmsdError: why none does."""
        if not self._allowed:
            raise Conflict(
                "this was written by k8s-kms-plugin with aes-cbc, whose tag authenticates nothing: it is not read",
                "to move over, set legacy.allow_unauthenticated and legacy.key for as long as it takes; whoever can "
                "write to etcd can alter such values unseen",
            )
        if not self._pinned:
            raise Misconfigured(
                "legacy.allow_unauthenticated is set, and legacy.key does not say with which key to read",
                "name the AES key of k8s-kms-plugin by its label or key id",
            )
        if not self._keyring.seen:
            await self._keyring.look_soon()
        key = self._select()
        if not key.reads or key.token.kind != "aes":
            raise Misconfigured(
                f"the key {self._pinned!r} that legacy.key names cannot read: {key.reason or 'it is no AES key'}",
                key.hint or "name the AES key of k8s-kms-plugin by its label or key id",
            )
        return key

    def _select(self) -> Key:
        try:
            return self._keyring.select(self._pinned)
        except (InvalidRequest, NotFound) as error:
            raise Misconfigured(f"legacy.key names no one key: {error.message}", error.hint) from error

    def mac(self, key: Key) -> bytes | None:
        """CKA_ID of the HMAC key that goes with an AES key, if there is one."""
        companion = self._keyring.picture.companion(key)
        if companion is not None:
            return companion.cka_id
        for other in self._keyring.picture.keys:
            named = self._hmac_label and other.label == self._hmac_label
            if named and other.token.kind == "hmac" and other.place == key.place and other.cka_id:
                return other.cka_id
        return None

    def _count(self, key: Key) -> None:
        self.unauthenticated += 1
        if monotonic() - self._warned > _WARN_PAUSE:
            self._warned = monotonic()
            log.warning(
                "a value that nothing protects was read",
                since_start=self.unauthenticated,
                key_id_sha256=key.key_id_sha256,
                hint=_REWRITE,
            )
