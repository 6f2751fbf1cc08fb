"""The KMS service on the tokens of this kmsd."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from kmsd.crypto import cbc_hmac, gcm
from kmsd.crypto.gcm import TagMismatch
from kmsd.crypto.schemes import RSA, Pair, Scheme, as_plugin
from kmsd.deadline import left, within
from kmsd.errors import (
    DeadlineExceeded,
    InvalidRequest,
    KmsdError,
    Misconfigured,
    NotFound,
    Unavailable,
    WrongResult,
    short,
)
from kmsd.formats import jwe, k8s_kms_plugin, keyid
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.observe.health import Health
from kmsd.observe.unproven import Unproven
from kmsd.service.api import Decrypted, Encrypted, ServiceStatus
from kmsd.service.following import Following

_STATUS_RECHECK: Final = 0.2
_STATUS_WAIT: Final = 1.0
_CANDIDATES_MOST: Final = 64
"""The most keys that are tried for one ciphertext that names only a label."""


class Opened(NamedTuple):
    """A plaintext and the key that opened it."""

    plaintext: bytes
    key: Key


class ForeignReader(Protocol):
    """A reader of the aes-cbc formats of k8s-kms-plugin and its successor. read: how many values of other programs were
    read, by format."""

    read: Counter[CiphertextFormat]

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Opened:
        """Decrypt as KmsService.decrypt does."""
        ...


class LocalService:
    """The KMS service on the tokens of this kmsd.

    following: told of each Status and Encrypt. write_legacy: write k8s-kms-plugin's format. fail_closed: Status is an
    error while the token is away.
    remembered: key_id that Status names until the tokens have been seen.
    used: told of the key_id and "encrypt" or "decrypt" after each of them. foreign: reads what other programs wrote
    with AES-CBC. unproven: told of each value that was encrypted.
    """

    def __init__(
        self,
        keyring: Keyring,
        health: Health,
        following: Following,
        *,
        write_legacy: bool,
        fail_closed: bool,
        remembered: str,
        used: Callable[[str, Literal["encrypt", "decrypt"]], None],
        foreign: ForeignReader,
        unproven: Unproven,
    ) -> None:
        self._foreign = foreign
        self._unproven = unproven
        self.following = following
        self._keyring = keyring
        self._health = health
        self._write_legacy = write_legacy
        self._fail_closed = fail_closed
        self._remembered = remembered
        self._used = used

    def unfollowed(self) -> LocalService:
        """Return a service that does the same, and takes nobody who asks for a kube-apiserver."""
        other = copy.copy(self)
        other.following = Following()
        return other

    async def status(self) -> ServiceStatus:
        """Tell whether kmsd serves, and with which key."""
        health = await self._health.fresh(_STATUS_RECHECK, _STATUS_WAIT)
        write = self._keyring.inventory.write
        key_id = write.key_id if write else "" if self._keyring.seen else self._remembered
        if key_id:
            self.following.status(key_id)
        silent = self._silent(write)
        if health.ok and write is not None and self._keyring.hsm(write).available and silent is None:
            return ServiceStatus("ok", key_id)
        error = health.error or silent or self._keyring.why_none()
        away = self._keyring.away if write is None else not self._keyring.hsm(write).available
        if self._fail_closed and (away or error.retryable):
            raise Unavailable(error.message, error.hint)
        return ServiceStatus(error.sentence(), key_id)

    def _silent(self, write: Key | None) -> KmsdError | None:
        """Return why the token of the write key counts as hung although its last round trip was well; None if it does
        not."""
        hsm = self._keyring.hsm(write) if write is not None else None
        if hsm is None or hsm.silent < hsm.address.timeout:
            return None
        return DeadlineExceeded(
            f"{hsm.name} has not answered anything for {hsm.silent:.0f} s", "check the token and the network to it"
        )

    async def encrypt(self, plaintext: bytes, until: float) -> Encrypted:
        """Encrypt with the write key."""
        keyring = self._keyring
        if keyring.inventory.write is None and not keyring.seen and not keyring.refused:
            # kmsd has just started: the socket answers before the token does.
            with contextlib.suppress(KmsdError):
                async with within(until):
                    await keyring.look_soon()
        key = keyring.write_key()
        try:
            ciphertext = await self._encrypt_with(key, plaintext, until)
        except KmsdError as error:
            error.key_id_sha256 = key.key_id_sha256
            raise
        self._unproven.encrypted(key.key_id)
        self._used(key.key_id, "encrypt")
        self.following.encrypt(key.key_id)
        return Encrypted(ciphertext, key.key_id, key.key_id_sha256)

    async def _encrypt_with(self, key: Key, plaintext: bytes, until: float) -> bytes:
        how, header = self._writes(key)
        self._health.check_results()
        hsm = await self._settled(key, until)
        try:
            ciphertext = await how.encrypt(hsm, key.cka_id, header, plaintext, left(until))
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            self._health.poke()
            raise hsm.explain(error) from error
        except (WrongResult, DeadlineExceeded):
            self._health.poke()
            raise
        # Meanwhile a round trip may have shown that the token encrypts wrongly: then this is not answered either.
        self._health.check_results()
        return ciphertext

    def _writes(self, key: Key) -> tuple[Scheme, bytes]:
        """Return how a key writes, and with which header. Raises Misconfigured."""
        if key.scheme is None:
            raise Misconfigured(key.reason, key.hint)
        return (as_plugin(key.scheme), key.legacy_header) if self._write_legacy else (key.scheme, key.header)

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Decrypted:
        """Decrypt with the key that the ciphertext names."""
        plaintext, key = await self._open(ciphertext, key_id, until)
        self._used(key.key_id, "decrypt")
        return Decrypted(plaintext, key.key_id, key.key_id_sha256)

    async def _open(self, ciphertext: bytes, key_id: str | None, until: float) -> Opened:
        try:
            parsed = jwe.parse(ciphertext)
        except jwe.ForeignJwe:
            read = await self._foreign.decrypt(ciphertext, key_id, until)
            self._check_plaintexts(read.key)
            return read
        except jwe.JweError as error:
            raise InvalidRequest(f"the ciphertext cannot be read: {error}", jwe.NOT_OURS) from error
        if parsed.alg == jwe.DIRECT and parsed.enc in jwe.GCM:
            return await self._open_gcm(parsed, key_id, until)
        key = self._keyring.inventory.by_key_id.get(parsed.kid)
        if key is None:
            async with within(until):
                key = await self._keyring.find(parsed.kid)
        check_named(key_id, key)
        if (parsed.alg == jwe.WRAPPED) != (key.token.kind == "rsa"):
            # Else whoever knows an RSA key could write what is taken for an AES key's, or the other way round.
            raise InvalidRequest(f"the ciphertext's alg {parsed.alg} does not fit its key", jwe.NOT_OURS)
        opened = self._open_wrapped if parsed.alg == jwe.WRAPPED else self._open_pair
        self._check_plaintexts(key)
        try:
            plaintext = await opened(key, parsed, until)
        except (Unavailable, DeadlineExceeded):
            self._health.poke()
            raise
        self._check_plaintexts(key)
        return Opened(plaintext, key)

    async def _open_pair(self, key: Key, parsed: jwe.Jwe, until: float) -> bytes:
        """Return the plaintext of what a pair wrote."""
        if cbc_hmac.SUITES[parsed.enc].aes_bits != key.token.bits:
            raise InvalidRequest(
                f"the ciphertext's enc does not fit its key, which is AES-{key.token.bits}", jwe.NOT_OURS
            )
        mac = self._mac_of(key, parsed)
        if mac is None:
            async with within(until):
                await self._keyring.look_soon()
            mac = self._mac_of(key, parsed)
        if mac is None:
            named = " that --p11-hmac-label names" if parsed.hkid else ""
            raise NotFound(
                f"there is no HMAC key with key id {short(parsed.hkid or parsed.kid)} on "
                f"{self._keyring.hsm(key).name}{named}",
                "restore it to the token: without it nothing shows whether this data was altered",
            )
        pair = Pair(parsed.enc, mac.cka_id, self._keyring.ability(key.place).mac_limit)
        return await pair.decrypt(await self._settled(key, until), key.cka_id, parsed, left(until))

    async def _open_wrapped(self, key: Key, parsed: jwe.Jwe, until: float) -> bytes:
        """Return the plaintext of what was written under an RSA key."""
        return await RSA.decrypt(await self._settled(key, until), key.cka_id, parsed, left(until))

    def _mac_of(self, key: Key, parsed: jwe.Jwe) -> Key | None:
        """Return the HMAC key that a ciphertext names. A key with another id than the AES key's must be the configured
        one: whoever writes to etcd may name any, and might know the value of one that somebody else put there."""
        companions = self._keyring.inventory.companions
        if not parsed.hkid:
            return companions.get((key.place, key.cka_id))
        named = [companions.get((key.place, cka_id)) for cka_id in keyid.named(parsed.hkid)]
        return next((mac for mac in named if mac is not None and mac.label == self._keyring.hmac_label), None)

    async def _open_gcm(self, parsed: jwe.Jwe, key_id: str | None, until: float) -> Opened:
        """Return the plaintext of what was written with AES-GCM, by kmsd, by k8s-kms-plugin or by its successor.

        kmsd names the key's id. The others name its label, so the key is one that holds it now or held it once: the tag
        decides. A kmsd on a token that chooses its own IVs writes as they do, with a key id for the label.
        """
        named = self._known(parsed.kid)
        if not named:
            async with within(until):
                named = await self._look_for(parsed.kid)
        aes = [key for key in named if key.token.kind == "aes"]
        if not aes:
            raise InvalidRequest("the ciphertext names an RSA key, and is encrypted with AES-GCM", jwe.NOT_OURS)
        candidates = [key for key in aes if is_named(key_id, key)]
        if not candidates:
            check_named(key_id, aes[0])
        fitting = [key for key in candidates if _fits(key, parsed)][:_CANDIDATES_MOST]
        if not fitting:
            raise InvalidRequest(
                f"the ciphertext's enc or IV does not fit its key, which is AES-{candidates[0].token.bits}",
                jwe.NOT_OURS,
            )
        try:
            opened = await self._try_each(fitting, parsed, until)
            if parsed.kid != opened.key.key_id:
                self._foreign.read[CiphertextFormat.K8S_KMS_PLUGIN_GCM] += 1
            return opened
        except (Unavailable, DeadlineExceeded):
            self._health.poke()
            raise

    async def _try_each(self, candidates: Sequence[Key], parsed: jwe.Jwe, until: float) -> Opened:
        """Return the plaintext under whichever of these keys wrote it. Raises KmsdError."""
        failed: KmsdError | None = None
        mismatched: dict[str, Key] = {}
        for key in candidates:
            try:
                hsm = await self._settled(key, until)
                if self._keyring.ability(key.place).gcm_unauthenticated:
                    raise Misconfigured(
                        f"{hsm.name} takes AES-GCM ciphertexts that were changed, so nothing is decrypted with it",
                        "kmsctl doctor shows what it takes; update the token, or what is between kmsd and it",
                    )
                self._check_plaintexts(key)
                plaintext = await gcm.attempt(hsm, key.cka_id, parsed, left(until))
                self._check_plaintexts(key)
            except InvalidRequest:
                raise
            except KmsdError as error:
                # A key that cannot be tried leaves it open whether the data is intact: that is the answer then.
                failed = failed or error
            else:
                if plaintext is not None:
                    return Opened(plaintext, key)
                mismatched.setdefault(key.place, key)
        if failed is not None:
            raise failed
        # One proof for each token is enough: if it works, it is the data that does not fit.
        for key in mismatched.values():
            await gcm.show_working(self._keyring.hsm(key), key.cka_id, left(until), encrypts=key.token.encrypt)
        raise TagMismatch

    def _check_plaintexts(self, key: Key) -> None:
        """Raise WrongPlaintext if the token of this key decrypts wrongly, as far as round trips show it: they are made
        on that of the write key."""
        write = self._keyring.inventory.write
        if write is not None and write.place == key.place:
            self._health.check_plaintexts()

    def _known(self, kid: str) -> list[Key]:
        """Return the keys that a ciphertext may mean: the one with this id, else those that have or had this label."""
        found = self._keyring.inventory.by_key_id.get(kid)
        return [found] if found is not None else self._keyring.labelled(kid)

    async def _look_for(self, kid: str) -> list[Key]:
        """Return the keys that a ciphertext may mean, after a fresh look at the tokens. Raises NotFound."""
        try:
            return [await self._keyring.find(kid, or_label=True)]
        except NotFound:
            known = self._known(kid)
            if not known:
                raise
            return known

    async def _settled(self, key: Key, until: float) -> Hsm:
        """Return the token of a key, once it is not being reconnected on purpose."""
        hsm = self._keyring.hsm(key)
        if hsm.connected is None:
            await hsm.settled(until)
        return hsm


def is_named(key_id: str | None, key: Key) -> bool:
    """Return whether the key_id of a request names this key, in whatever spelling. None, of an API without one, names
    all."""
    return key_id is None or key_id == key.key_id or keyid.means(key_id, key.key_id)


def check_named(key_id: str | None, key: Key) -> None:
    """Raise InvalidRequest unless the key_id of a request names this key."""
    if not is_named(key_id, key):
        raise InvalidRequest(
            "the request's key_id and the ciphertext name different keys",
            "the stored object mixes parts of two; restore it from a backup",
        )


def _fits(key: Key, parsed: jwe.Jwe) -> bool:
    """Return whether a key of this size writes such a value. k8s-kms-plugin calls every size A256GCM. An IV has 16
    bytes in its format, and where the token chooses it."""
    encs = {gcm.enc_for(key.token.bits), *(("A256GCM",) if parsed.kid != key.key_id else ())}
    return parsed.enc in encs and len(parsed.iv) in (gcm.NATIVE_IV_BYTES, k8s_kms_plugin.IV_BYTES)
