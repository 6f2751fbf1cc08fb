"""The KMS service in domain types: what the two Kubernetes APIs have in common, without protobuf.

`KmsService` is the seam: `rpc` translates to it, `LocalService` answers from a token on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from kmsd.crypto import cbc_hmac, gcm, jwe, legacy, oaep
from kmsd.crypto.gcm import TagMismatch
from kmsd.crypto.schemes import Scheme
from kmsd.errors import DeadlineExceeded, InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.session import KeyAmbiguousError, KeyMissingError
from kmsd.keyring import Keyring
from kmsd.observe.health import Health
from kmsd.picture import Key, key_id_bytes

T = TypeVar("T")

_STATUS_RECHECK: Final = 0.2
_STATUS_WAIT: Final = 1.0
_NOT_OURS: Final = "it was not written by kmsd, or was damaged since"
_LEGACY_CANDIDATES: Final = 64
"""Keys tried for one ciphertext that names only a label."""


class Encrypted(NamedTuple):
    """ciphertext: what is stored. key: the key that wrote it."""

    ciphertext: bytes
    key: Key


class Decrypted(NamedTuple):
    plaintext: bytes
    key: Key


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """healthz: exactly "ok", or the reason. key_id: of the write key; empty if there never was one."""

    healthz: str
    key_id: str


class KmsService(Protocol):
    """What a KMS plugin does (KEP-3299)."""

    async def status(self) -> ServiceStatus: ...

    async def encrypt(self, plaintext: bytes, timeout: float) -> Encrypted:
        """Encrypt with the write key. timeout: seconds. Raises KmsdError."""
        ...

    async def decrypt(self, ciphertext: bytes, key_id: str | None, timeout: float) -> Decrypted:
        """Decrypt with the key that the ciphertext names; it must be `key_id` if that is given. Raises KmsdError."""
        ...


class ForeignReader(Protocol):
    """Reads the aes-cbc formats of k8s-kms-plugin and its successor."""

    async def decrypt(self, ciphertext: bytes, key_id: str | None, timeout: float) -> Decrypted:
        """As KmsService.decrypt."""
        ...


@dataclass(slots=True)
class Following:
    """How far kube-apiserver has followed to the key that writes now. Unix times; 0 for what has not happened.

    previous: the key_id that was answered before this one; empty if none was since kmsd started.
    """

    key_id: str = ""
    previous: str = ""
    since: float = 0.0
    first_status: float = 0.0
    last_status: float = 0.0
    first_encrypt: float = 0.0
    last_encrypt: float = 0.0

    def status(self, key_id: str) -> None:
        now = self._at(key_id)
        self.last_status = now
        self.first_status = self.first_status or now

    def encrypt(self, key_id: str) -> None:
        now = self._at(key_id)
        self.last_encrypt = now
        self.first_encrypt = self.first_encrypt or now

    def _at(self, key_id: str) -> float:
        now = time.time()
        if key_id != self.key_id:
            self.previous, self.key_id, self.since = self.key_id, key_id, now
            self.first_status = self.last_status = self.first_encrypt = self.last_encrypt = 0.0
        return now


class LocalService:
    """The KMS service on the tokens of this kmsd.

    write_legacy: write the ancestor's format. fail_closed: Status is an error while the token is away.
    remembered: key_id that Status names until the tokens have been seen.
    used: told of the key_id and "encrypt" or "decrypt" after each of them. foreign: reads what other programs wrote
    with AES-CBC.
    """

    def __init__(
        self,
        keyring: Keyring,
        health: Health,
        *,
        write_legacy: bool,
        fail_closed: bool,
        remembered: str,
        used: Callable[[str, Literal["encrypt", "decrypt"]], None],
        foreign: ForeignReader,
    ) -> None:
        self._foreign = foreign
        self.following = Following()
        self._keyring = keyring
        self._health = health
        self._write_legacy = write_legacy
        self._fail_closed = fail_closed
        self._remembered = remembered
        self._used = used

    async def status(self) -> ServiceStatus:
        health = await self._health.fresh(_STATUS_RECHECK, _STATUS_WAIT)
        write = self._keyring.picture.write
        key_id = write.key_id if write else "" if self._keyring.seen else self._remembered
        if key_id:
            self.following.status(key_id)
        if health.ok and write is not None and self._keyring.hsm(write).available:
            return ServiceStatus("ok", key_id)
        error = health.error or self._keyring.why_none()
        away = self._keyring.away if write is None else not self._keyring.hsm(write).available
        if self._fail_closed and (away or error.retryable):
            raise Unavailable(error.message, error.hint)
        return ServiceStatus(error.sentence(), key_id)

    async def encrypt(self, plaintext: bytes, timeout: float) -> Encrypted:
        keyring = self._keyring
        if keyring.picture.write is None and not keyring.seen and not keyring.refused:
            # kmsd has just started: the socket answers before the token does.
            with contextlib.suppress(KmsdError):
                await _within(timeout, keyring.look_soon())
        key = keyring.write_key()
        hsm = keyring.hsm(key)
        how = key.scheme
        check_format(how, write_legacy=self._write_legacy)
        if hsm.connected is None:
            await hsm.settled(timeout)
        try:
            if how is not None and how.rsa:
                ciphertext = await hsm.submit(oaep.encrypt, key.cka_id, key.header, plaintext, timeout=timeout)
            elif how is None or how.mac is None:
                job, header = (
                    (gcm.encrypt_legacy, key.legacy_header) if self._write_legacy else (gcm.encrypt_native, key.header)
                )
                ciphertext = await hsm.submit(job, key.cka_id, header, plaintext, timeout=timeout)
            else:
                ciphertext = await hsm.submit(
                    cbc_hmac.encrypt,
                    key.cka_id,
                    how.mac,
                    how.enc,
                    key.header,
                    plaintext,
                    how.mac_limit,
                    timeout=timeout,
                )
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            self._health.poke()
            raise hsm.explain(error) from error
        self._used(key.key_id, "encrypt")
        self.following.encrypt(key.key_id)
        return Encrypted(ciphertext, key)

    async def decrypt(self, ciphertext: bytes, key_id: str | None, timeout: float) -> Decrypted:
        try:
            parsed = jwe.parse(ciphertext)
        except jwe.ForeignJwe:
            return await self._foreign.decrypt(ciphertext, key_id, timeout)
        except jwe.JweError as error:
            raise InvalidRequest(f"the ciphertext cannot be read: {error}", _NOT_OURS) from error
        if legacy.is_legacy(parsed):
            return await self._decrypt_legacy(parsed, key_id, timeout)
        if key_id is not None and parsed.kid != key_id:
            raise InvalidRequest(
                "the request's key_id and the ciphertext's kid name different keys",
                "the stored object mixes parts of two; restore it from a backup",
            )
        key = await _within(timeout, self._keyring.find(parsed.kid))
        if (parsed.alg == jwe.WRAPPED) != (key.token.kind == "rsa"):
            # Else whoever knows an RSA key could write what is taken for an AES key's, or the other way round.
            raise InvalidRequest(f"the ciphertext's alg {parsed.alg} does not fit its key", _NOT_OURS)
        if parsed.alg == jwe.WRAPPED:
            return Decrypted(await self._open_wrapped(key, parsed, timeout), key)
        if parsed.enc in jwe.CBC:
            return Decrypted(await self._open_pair(key, parsed, timeout), key)
        # 16 bytes: of a token that chooses its IVs itself.
        if parsed.enc != gcm.enc_for(key.token.bits) or len(parsed.iv) not in (gcm.NATIVE_IV_BYTES, legacy.IV_BYTES):
            raise InvalidRequest(
                f"the ciphertext's enc or IV does not fit its key, which is AES-{key.token.bits}", _NOT_OURS
            )
        return Decrypted(await self._open(key, parsed, timeout), key)

    async def _open_pair(self, key: Key, parsed: jwe.Jwe, timeout: float) -> bytes:
        """The plaintext of what a pair wrote."""
        if cbc_hmac.SUITES[parsed.enc].aes_bits != key.token.bits:
            raise InvalidRequest(f"the ciphertext's enc does not fit its key, which is AES-{key.token.bits}", _NOT_OURS)
        mac = self._mac_of(key, parsed)
        if mac is None:
            await _within(timeout, self._keyring.look_soon())
            mac = self._mac_of(key, parsed)
        hsm = self._keyring.hsm(key)
        if mac is None:
            raise NotFound(
                f"there is no HMAC key with key id {(parsed.hkid or parsed.kid)[:80]!r} on {hsm.name}"
                + (" that --p11-hmac-label names" if parsed.hkid else ""),
                "restore it to the token: without it nothing shows whether this data was altered",
            )
        limit = key.scheme.mac_limit if key.scheme is not None else 0
        if hsm.connected is None:
            await hsm.settled(timeout)
        try:
            plaintext = await cbc_hmac.decrypt(hsm, key.cka_id, mac.cka_id, parsed, timeout, mac_limit=limit)
        except Unavailable:
            self._health.poke()
            raise
        self._used(key.key_id, "decrypt")
        return plaintext

    async def _open_wrapped(self, key: Key, parsed: jwe.Jwe, timeout: float) -> bytes:
        """The plaintext of what was written under an RSA key."""
        hsm = self._keyring.hsm(key)
        if hsm.connected is None:
            await hsm.settled(timeout)
        try:
            plaintext = await oaep.decrypt(hsm, key.cka_id, parsed, timeout)
        except Unavailable:
            self._health.poke()
            raise
        self._used(key.key_id, "decrypt")
        return plaintext

    def _mac_of(self, key: Key, parsed: jwe.Jwe) -> Key | None:
        """The HMAC key that a ciphertext names. One with another id than the AES key's must be the configured one:
        whoever writes to etcd may name any, and might know the value of one that somebody else put there."""
        mac = self._keyring.picture.companions.get((key.place, key_id_bytes(parsed.hkid or parsed.kid)))
        if mac is not None and parsed.hkid and mac.label != self._keyring.hmac_label:
            return None
        return mac

    async def _decrypt_legacy(self, parsed: jwe.Jwe, key_id: str | None, timeout: float) -> Decrypted:
        """The ancestor names a label, so the key is one that holds it now or held it once: the tag decides. A kmsd on a
        token that chooses its own IVs writes the same, with a key id for the label."""
        candidates = [key for key in await self._named(parsed.kid, timeout) if key.token.kind == "aes"]
        if not candidates:
            raise InvalidRequest("the ciphertext names an RSA key, and is of AES-GCM", _NOT_OURS)
        if key_id is not None:
            candidates = [key for key in candidates if key.key_id == key_id]
            if not candidates:
                raise InvalidRequest(
                    "the request's key_id is not that of a key with the ciphertext's label",
                    "the stored object mixes parts of two; restore it from a backup",
                )
        failed: KmsdError | None = None
        for key in candidates[:_LEGACY_CANDIDATES]:
            try:
                return Decrypted(await self._open(key, parsed, timeout), key)
            except KmsdError as error:
                # A key that cannot be tried leaves it open whether the data is intact: that is the answer then.
                if failed is None or isinstance(failed, TagMismatch):
                    failed = error
        raise failed or InvalidRequest("no key fits the ciphertext")

    async def _named(self, kid: str, timeout: float) -> list[Key]:
        """The key with this id, else those with this label. Raises NotFound if there are none."""

        def by_id() -> list[Key]:
            return [key for key in self._keyring.picture.keys if key.key_id == kid and key.reads]

        named = by_id()
        if named:
            return named
        try:
            return await _within(timeout, self._keyring.labelled(kid))
        except KmsdError:
            # It has looked at the tokens again meanwhile.
            named = by_id()
            if not named:
                raise
            return named

    async def _open(self, key: Key, parsed: jwe.Jwe, timeout: float) -> bytes:
        hsm = self._keyring.hsm(key)
        if self._keyring.ability(key.place).gcm_unauthenticated:
            raise Misconfigured(
                f"{hsm.name} takes AES-GCM ciphertexts that were changed, so nothing is decrypted with it",
                "kmsctl doctor shows what it takes; update the token, or what is between kmsd and it",
            )
        if hsm.connected is None:
            await hsm.settled(timeout)
        try:
            plaintext = await gcm.decrypt(hsm, key.cka_id, parsed, timeout, encrypts=key.token.encrypt)
        except Unavailable:
            self._health.poke()
            raise
        self._used(key.key_id, "decrypt")
        return plaintext


def check_format(how: Scheme | None, *, write_legacy: bool) -> None:
    """Raises Misconfigured for a write key that cannot write the ancestor's format, if that is what is configured."""
    if write_legacy and how is not None and (how.cbc or how.rsa):
        what = "an RSA key" if how.rsa else "a pair for AES-CBC"
        raise Misconfigured(
            f"keys.write_format k8s-kms-plugin is of AES-GCM only, and the write key is {what}",
            "the format with AES-CBC authenticates nothing and is never written: set write_format native",
        )


async def _within(timeout: float, answer: Awaitable[T]) -> T:
    """What `answer` gives within `timeout` seconds. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded(
            "the token did not show its keys in time", "check the token; the call may be repeated"
        ) from None
