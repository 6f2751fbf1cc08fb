"""A token in the memory of the test, in the place of `Hsm`: for unit tests of what stands above it, in microseconds.

It encrypts for real (AES-GCM of `cryptography`), and fails where it is told to. What a token of hardware or a module
makes of a call, only the real ones show.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from kmsd.crypto import legacy_cbc
from kmsd.errors import KmsdError, Unavailable
from kmsd.formats import jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.explain import explain
from kmsd.hsm.host.keys import KeyListing, Kind, TokenKey
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.operation import Operation, definition_of
from kmsd.hsm.vendors import quirks

MECHANISMS = frozenset({"CKM_AES_GCM", "CKM_AES_CBC", "CKM_SHA256_HMAC", "CKM_SHA512_HMAC"})


@dataclass(frozen=True)
class Stored:
    key: TokenKey
    value: bytes


class MemoryToken:
    """See `Hsm` for what is public here and there. as_hsm: the same, for what is typed to take one.

    done: how often each operation was asked for. failing: what an operation fails with, by name.
    """

    def __init__(self, label: str = "memory") -> None:
        self.label = label
        self.name = f"token {label!r}"
        self.stored: list[Stored] = []
        self.done: Counter[str] = Counter()
        self.failing: dict[Operation, Exception] = {}
        self.reconnects: list[str] = []
        self.forgotten: set[bytes] = set()
        self.error: KmsdError = Unavailable(f"{self.name} was unplugged", "plug it in")
        self.refused = False
        self.room = None
        self.beside = SimpleNamespace(misses_objects=False, has_key=self.has_key)
        self.hosting = SimpleNamespace(replace=self.replace)
        self.silent = 0.0
        self.address = SimpleNamespace(timeout=3.0)
        self._up = True

    @property
    def as_hsm(self) -> Hsm:
        return cast("Hsm", self)

    def make(self, label: str, cka_id: bytes, *, kind: Kind = "aes", **changed: Any) -> None:
        """Put a key of 256 bits on the token."""
        self.put(label, cka_id, os.urandom(32), kind=kind, **changed)

    def put(self, label: str, cka_id: bytes, value: bytes, *, kind: Kind = "aes", **changed: Any) -> None:
        """Put a key of this value on the token."""
        aes = kind == "aes"
        key = TokenKey(label, cka_id, kind, 8 * len(value), aes, aes, not aes, not aes, True, False, True)
        self.stored.append(Stored(replace(key, **changed), value))

    def relabel(self, label: str, to: str) -> None:
        self.stored = [
            replace(each, key=replace(each.key, label=to)) if each.key.label == label else each for each in self.stored
        ]

    def unplug(self) -> None:
        self._up = False

    def plug(self) -> None:
        self._up = True

    # As Hsm.

    @property
    def connected(self) -> Any:
        if not self._up:
            return None
        return SimpleNamespace(
            mechanisms=MECHANISMS, quirks=quirks.GENERIC, gcm_refused="", gcm_unauthenticated=False, keys_most=None
        )

    @property
    def available(self) -> bool:
        return self._up

    async def settled(self, until: float) -> None:
        pass

    def submit(
        self, fn: Callable[..., Any], *args: Any, timeout: float | None = None, retry: bool = True
    ) -> asyncio.Future[Any]:
        if not self._up:
            raise self.error.again()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._do(definition_of(fn).name, args))
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            future.set_exception(error)
        return future

    async def run(self, fn: Callable[..., Any], *args: Any, timeout: float | None = None, retry: bool = True) -> Any:
        try:
            return await self.submit(fn, *args, timeout=timeout, retry=retry)
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            raise self.explain(error) from error

    def explain(self, error: CkrError | KeyMissingError | KeyAmbiguousError) -> KmsdError:
        return explain(error, self.name)

    def forget_handles(self, gone: frozenset[bytes]) -> None:
        self.forgotten |= gone

    async def replace(self, why: str, *, doubted: bool = False) -> bool:
        self.reconnects.append(why)
        return self._up

    async def has_key(self, cka_id: bytes, timeout: float) -> bool:
        return any(each.key.cka_id == cka_id for each in self.stored)

    # Operations.

    def _do(self, name: Operation, args: tuple[Any, ...]) -> Any:
        self.done[name] += 1
        if name in self.failing:
            raise self.failing[name]
        match name:
            case Operation.LIST_KEYS:
                private = tuple(each.key for each in self.stored if each.key.private)
                return KeyListing(private, tuple(each.key for each in self.stored if not each.key.private))
            case Operation.RANDOM:
                return os.urandom(args[0])
            case Operation.ENCRYPT_GCM:
                cka_id, header, plaintext = args
                iv = os.urandom(12)
                return jwe.assemble(header, iv, self._aes(cka_id).encrypt(iv, plaintext, header))
            case Operation.DECRYPT_GCM:
                cka_id, iv, aad, ciphertext = args
                try:
                    return self._aes(cka_id).decrypt(iv, ciphertext, aad)
                except InvalidTag as error:
                    raise CkrError("CKR_ENCRYPTED_DATA_INVALID", "C_Decrypt") from error
            case Operation.DECRYPT_CBC_LEGACY:
                return legacy_cbc.decrypt_here(cast("TokenSession", self), *args)
            case Operation.PROBE_GCM:
                self._aes(args[0])
                return 0.001, 0.001
            case Operation.GENERATE_KEY:
                _, label, cka_id, kind, bits = args
                self.make(label, cka_id, kind=kind, bits=bits)
                return self.stored[-1].key
            case Operation.RELABEL_KEY:
                _, kind, cka_id, label, to = args
                (there,) = [each for each in self.stored if self._is(each.key, kind, cka_id, label, to)]
                self.stored.remove(there)
                self.stored.append(replace(there, key=replace(there.key, label=to)))
                return self.stored[-1].key
            case Operation.DESTROY_KEY:
                _, kind, cka_id, label = args
                (there,) = [each for each in self.stored if self._is(each.key, kind, cka_id, label)]
                self.stored.remove(there)
                return None
            case _:
                raise CkrError("CKR_FUNCTION_NOT_SUPPORTED", name)

    @staticmethod
    def _is(key: TokenKey, kind: Kind, cka_id: bytes, *labels: str) -> bool:
        return (key.kind, key.cka_id) == (kind, cka_id) and key.label in labels

    # As TokenSession.

    def hmac(self, cka_id: bytes, hash_: str, data: bytes) -> bytes:
        return hmac.digest(self._value(cka_id, "hmac"), data, hash_.lower())

    def decrypt_cbc(self, cka_id: bytes, iv: bytes, blocks: bytes) -> bytes:
        return Cipher(AES(self._value(cka_id, "aes")), CBC(iv)).decryptor().update(blocks)

    def _aes(self, cka_id: bytes) -> AESGCM:
        return AESGCM(self._value(cka_id, "aes"))

    def _value(self, cka_id: bytes, kind: Kind) -> bytes:
        found = [each.value for each in self.stored if (each.key.cka_id, each.key.kind) == (cka_id, kind)]
        if not found:
            raise KeyMissingError
        if len(found) > 1:
            raise KeyAmbiguousError
        return found[0]
