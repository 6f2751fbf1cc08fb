"""One PKCS#11 session and what it remembers: key handles and random bytes for IVs.

Belongs to one thread at a time, because a session does one operation at a time (PKCS#11 3.0, 2.6).
Knows keys by CKA_ID; knows nothing of labels, formats or waiting.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, c_ulong, memset, sizeof, string_at
from typing import Final

import pkcs11
import pkcs11.exceptions

from kmsd.hsm.ckr import CkrError, check, from_library
from kmsd.hsm.cryptoki import (
    CKA_CLASS,
    CKA_ID,
    CKA_KEY_TYPE,
    CKA_TOKEN,
    CKM_AES_GCM,
    CKO_SECRET_KEY,
    GcmParams,
    Mechanism,
)
from kmsd.hsm.module import Module

CKK_AES: Final = 0x1F
TAG_BYTES: Final = 16
_RANDOM_BATCH: Final = 1536
"""Bytes fetched at once: 128 IVs. An IV is public, so it may wait in memory; each byte is handed out once."""


class KeyMissingError(Exception):
    """No AES key with this CKA_ID is to be found. Not proof that it was deleted: the token may be away."""


class KeyAmbiguousError(Exception):
    """Several AES keys have this CKA_ID."""


class TokenSession:
    """A session without a PIN of its own: it shares the login of the process.

    Raises CkrError from every method.
    """

    def __init__(self, module: Module, token: pkcs11.Token, *, rw: bool = False) -> None:
        try:
            self.library = token.open(rw=rw)
        except pkcs11.exceptions.PKCS11Error as error:
            raise from_library(error, "C_OpenSession") from error
        self.cryptoki = module.cryptoki
        self.handle: int = self.library.handle  # type: ignore[attr-defined]  # missing from the library's types
        self._keys: dict[bytes, int] = {}
        self._random = b""
        self._params = GcmParams(ulTagBits=TAG_BYTES * 8)
        self._mechanism = Mechanism(CKM_AES_GCM, addressof(self._params), sizeof(self._params))
        self._mechanism_address = addressof(self._mechanism)
        self._length = c_ulong(0)
        self._length_address = addressof(self._length)
        self._resize(4096)

    def _resize(self, size: int) -> None:
        self._size = size
        self._buffer = ctypes.create_string_buffer(size)
        self._buffer_address = addressof(self._buffer)

    def close(self) -> None:
        try:
            self.library.close()
        except pkcs11.exceptions.PKCS11Error as error:
            raise from_library(error, "C_CloseSession") from error

    def forget(self) -> None:
        """Drop the remembered handles: the keys on the token have changed."""
        self._keys.clear()

    def random(self, size: int) -> bytes:
        """`size` bytes from the token's generator, fresh from the token."""
        try:
            return self.library.generate_random(size * 8)
        except pkcs11.exceptions.PKCS11Error as error:
            raise from_library(error, "C_GenerateRandom") from error

    def iv(self, size: int) -> bytes:
        """`size` random bytes from the token, never handed out before."""
        if len(self._random) < size:
            self._random = self.random(_RANDOM_BATCH)
        iv, self._random = self._random[:size], self._random[size:]
        return iv

    def key(self, cka_id: bytes) -> int:
        """Handle of the AES key with this CKA_ID, looked up once per session."""
        handle = self._keys.get(cka_id)
        if handle is None:
            found = self.cryptoki.find(
                self.handle,
                {CKA_CLASS: CKO_SECRET_KEY, CKA_TOKEN: True, CKA_KEY_TYPE: CKK_AES, CKA_ID: cka_id},
                most=2,
            )
            if not found:
                raise KeyMissingError(cka_id)
            if len(found) > 1:
                raise KeyAmbiguousError(cka_id)
            handle = self._keys[cka_id] = found[0]
        return handle

    def encrypt_gcm(self, cka_id: bytes, iv_size: int, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """AES-GCM (NIST SP 800-38D) with a fresh random IV. Returns (IV, ciphertext followed by the tag)."""
        key = self.key(cka_id)
        iv = self.iv(iv_size)
        self._prepare(iv, aad, len(plaintext) + TAG_BYTES)
        rv = self.cryptoki.encrypt_init(self.handle, self._mechanism_address, key)
        if rv:
            check(rv, "C_EncryptInit")
        rv = self.cryptoki.encrypt(self.handle, plaintext, len(plaintext), self._buffer_address, self._length_address)
        if rv:
            check(rv, "C_Encrypt")
        if self._length.value != len(plaintext) + TAG_BYTES:
            raise CkrError("unexpected output length", "C_Encrypt")
        return iv, string_at(self._buffer_address, self._length.value)

    def decrypt_gcm(self, cka_id: bytes, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        """AES-GCM; `ciphertext` ends with the tag. The plaintext is returned only if the tag fits."""
        key = self.key(cka_id)
        self._prepare(iv, aad, len(ciphertext))
        rv = self.cryptoki.decrypt_init(self.handle, self._mechanism_address, key)
        if rv:
            check(rv, "C_DecryptInit")
        rv = self.cryptoki.decrypt(self.handle, ciphertext, len(ciphertext), self._buffer_address, self._length_address)
        if rv:
            check(rv, "C_Decrypt")
        size = self._length.value
        if size != len(ciphertext) - TAG_BYTES:
            raise CkrError("unexpected output length", "C_Decrypt")
        try:
            return string_at(self._buffer_address, size)
        finally:
            memset(self._buffer_address, 0, size)

    def _prepare(self, iv: bytes, aad: bytes, output: int) -> None:
        if output + TAG_BYTES > self._size:
            self._resize(output + TAG_BYTES)
        params = self._params
        params.pIv = iv
        params.ulIvLen = len(iv)
        params.ulIvBits = len(iv) * 8
        params.pAAD = aad
        params.ulAADLen = len(aad)
        self._length.value = self._size
