"""One PKCS#11 session and what it remembers: key handles and random bytes for IVs.

Each operation is one part (PKCS#11 3.0, 5.8 to 5.13). Data is padded and authenticated above.

Belongs to one thread at a time, because a session does one operation at a time (PKCS#11 3.0, 2.6).
Knows keys by CKA_ID; knows nothing of labels, formats or waiting.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import addressof, c_ulong, memmove, memset, sizeof, string_at
from time import sleep
from typing import Final, Literal, NamedTuple

from kmsd.hsm.ckr import CkrError, check
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.blocks import decrypt_cbc, encrypt_cbc
from kmsd.hsm.host.generator import Generator
from kmsd.hsm.host.module import Module
from kmsd.hsm.host.trials import APPENDED_IV, WRITTEN_IV
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.purpose import signing_purpose

KeyKind = Literal["aes", "hmac", "rsa", "ec"]
Hash = Literal["SHA256", "SHA512"]

CKR_MECHANISM_PARAM_INVALID: Final = 0x71
TAG_BYTES: Final = 16
BLOCK_BYTES: Final = 16
_RANDOM_BATCH: Final = 1536
"""Bytes fetched at once: 128 IVs. An IV is public, so it may wait in memory; each byte is handed out once."""
_TEMPLATES: Final[dict[KeyKind, c.Template]] = {
    "aes": {c.CKA_CLASS: c.CKO_SECRET_KEY, c.CKA_TOKEN: True, c.CKA_KEY_TYPE: c.CKK_AES},
    # CKA_KEY_TYPE is left out: HMAC keys have several, and a template names one.
    "hmac": {c.CKA_CLASS: c.CKO_SECRET_KEY, c.CKA_TOKEN: True},
    "rsa": {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True, c.CKA_KEY_TYPE: c.CKK_RSA},
    "ec": {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True, c.CKA_KEY_TYPE: c.CKK_EC},
}
_HMACS: Final[dict[Hash, tuple[int, int]]] = {"SHA256": (c.CKM_SHA256_HMAC, 32), "SHA512": (c.CKM_SHA512_HMAC, 64)}
_F4: Final = 65537
_ABSENT_PAUSES: Final = (0.002, 0.005, 0.02, 0.05)
"""Seconds: SoftHSM shows a key to nobody while another process relabels it. A key is asked for only if it was there."""


class KeyMissingError(Exception):
    """Raised if no key of the kind with this CKA_ID is to be found. Not proof that it was deleted: the token may be
    away."""


class KeyAmbiguousError(Exception):
    """Raised if several keys of one kind have this CKA_ID."""


class RsaNumbers(NamedTuple):
    """A public key (RFC 8017, 3.1)."""

    modulus: int
    exponent: int

    @property
    def size(self) -> int:
        """The bytes of the modulus, and of what is encrypted with it."""
        return (self.modulus.bit_length() + 7) // 8


class TokenSession:
    """A session without a PIN of its own: it shares the login of the process.

    Raises CkrError from every method.
    """

    def __init__(self, module: Module, slot_id: int, *, rw: bool = False) -> None:
        self.cryptoki = module.cryptoki
        self.handle = calls.open_session(self.cryptoki.table, slot_id, rw=rw)
        self.trusted_public = module.trusted_public
        self.tls_key = module.tls_key
        self._with_login = module.with_login
        self._keys: dict[tuple[bytes, KeyKind], int] = {}
        self._private: set[int] = set()
        self._used = module.used.setdefault(slot_id, {})
        self._generator = module.generators.setdefault(slot_id, Generator())
        self._random = b""
        self._params = c.GcmParams(ulTagBits=TAG_BYTES * 8)
        self._mechanism = c.CkMechanism(c.CKM_AES_GCM, addressof(self._params), sizeof(self._params))
        self._mechanism_address = addressof(self._mechanism)
        self._length = c_ulong(0)
        self._length_address = addressof(self._length)
        self._iv = ctypes.create_string_buffer(BLOCK_BYTES)
        self._cbc = c.CkMechanism(c.CKM_AES_CBC, addressof(self._iv), BLOCK_BYTES)
        self._ecb = c.CkMechanism(c.CKM_AES_ECB, None, 0)
        self._cbc_from_ecb = module.cbc_from_ecb
        self._gcm_iv = module.gcm_iv.get(slot_id, "caller's")
        self._iv_refused = False
        self._params_iv = ctypes.create_string_buffer(BLOCK_BYTES)
        self._oaep_params = c.RsaOaepParams(c.CKM_SHA256, c.CKG_MGF1_SHA256, c.CKZ_DATA_SPECIFIED, None, 0)
        self._oaep = c.CkMechanism(c.CKM_RSA_PKCS_OAEP, addressof(self._oaep_params), sizeof(self._oaep_params))
        self._resize(4096)

    def _resize(self, size: int) -> None:
        self._size = size
        self._buffer = ctypes.create_string_buffer(size)
        self._buffer_address = addressof(self._buffer)

    def close(self) -> None:
        """Close the session. Raises CkrError."""
        calls.close_session(self.cryptoki.table, self.handle)

    @operation(Operation.FORGET_KEYS)
    def forget(self, gone: frozenset[bytes]) -> None:
        """Drop the remembered handles of the keys with these CKA_IDs, which have changed: a token may give a handle
        out again. That of a key that was only relabelled stays good."""
        for cka_id in gone:
            for kind in _TEMPLATES:
                self._private.discard(self._keys.pop((cka_id, kind), 0))

    @operation(Operation.RANDOM)
    def random(self, size: int) -> bytes:
        """Return `size` bytes of the token's generator and the kernel's together, fresh. Raises WrongResult as well."""
        return self._generator.mixed(calls.random(self.cryptoki.table, self.handle, size))

    def iv(self, size: int) -> bytes:
        """Return `size` random bytes, never handed out before. Raises WrongResult as well."""
        if self._generator.stuck:
            self._random = b""
        if len(self._random) < size:
            self._random = self.random(_RANDOM_BATCH)
        iv, self._random = self._random[:size], self._random[size:]
        return iv

    def key(self, cka_id: bytes, kind: KeyKind = "aes") -> int:
        """Return the handle of the key with this CKA_ID, looked up once per session. Raises KeyMissingError and
        KeyAmbiguousError."""
        handle = self._keys.get((cka_id, kind))
        if handle is None:
            found = self._find(cka_id, kind)
            for pause in _ABSENT_PAUSES:
                if found:
                    break
                sleep(pause)
                found = self._find(cka_id, kind)
            if not found:
                self.check_login()
                raise KeyMissingError(cka_id, kind)
            if len(found) > 1:
                raise KeyAmbiguousError(cka_id, kind)
            handle = self._keys[(cka_id, kind)] = found[0]
            self._used[(cka_id, kind)] = None
        return handle

    def is_private(self, handle: int) -> bool:
        """Return whether an object is private, asked for once: there are tokens that do not search by that."""
        if handle not in self._private:
            told = self.cryptoki.attributes(self.handle, handle, (c.CKA_PRIVATE,))
            if told.get(c.CKA_PRIVATE, b"\0") == b"\0":
                return False
            self._private.add(handle)
        return True

    def check_login(self) -> None:
        """Raise CkrError if nobody is logged in any more: a token then finds no private object, and says CKR_OK."""
        try:
            alone = self._with_login and not calls.logged_in(self.cryptoki.table, self.handle)
        except CkrError:
            return  # a token that cannot say so
        if alone:
            raise CkrError("CKR_USER_NOT_LOGGED_IN", "C_GetSessionInfo")

    def trusted(self, cka_id: object) -> c.Template:
        """Return what a template has beside the rest, so that it finds only what is trusted: private objects, which
        nobody can make without the PIN (PKCS#11 3.0, 4.4), and public ones only if the configuration names their
        CKA_ID and they do not sign."""
        named = isinstance(cka_id, bytes) and cka_id in self.trusted_public and signing_purpose(cka_id) is None
        return {} if named else {c.CKA_PRIVATE: True}

    def _find(self, cka_id: bytes, kind: KeyKind) -> list[int]:
        template = {**_TEMPLATES[kind], **self.trusted(cka_id), c.CKA_ID: cka_id}
        match kind:
            case "aes" | "rsa" | "ec":
                return self.cryptoki.find(self.handle, template, most=2)
            case "hmac":
                handles = self.cryptoki.find(self.handle, template)
                return [handle for handle in handles if self._key_type(handle) in c.CKK_HMAC]

    def _key_type(self, handle: int) -> int:
        raw = self.cryptoki.attributes(self.handle, handle, (c.CKA_KEY_TYPE,)).get(c.CKA_KEY_TYPE, b"")
        return int.from_bytes(raw, sys.byteorder) if raw else -1

    def rsa_numbers(self, cka_id: bytes) -> RsaNumbers:
        """Return the public key of the RSA key with this CKA_ID, as its private object tells it: anybody may put public
        objects on a token. Asked for each time, so that nothing is encrypted for a key that is gone."""
        return rsa_numbers_of(self, self.key(cka_id, "rsa"))

    def encrypt_gcm(self, cka_id: bytes, iv_size: int, aad: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Encrypt by AES-GCM (NIST SP 800-38D) with a fresh random IV; return (IV, ciphertext followed by the tag).

        The IV may be another one where the token chooses it itself (`GcmIv`). Raises WrongResult as well.
        """
        key = self.key(cka_id)
        written = self._gcm_iv == "written"
        iv = bytes(WRITTEN_IV) if written else b"" if self._iv_refused else self.iv(iv_size)
        self._prepare(iv, aad, len(plaintext) + TAG_BYTES)
        rv = self.cryptoki.encrypt_init(self.handle, self._mechanism_address, key)
        if rv == CKR_MECHANISM_PARAM_INVALID and self._gcm_iv == "appended" and iv:
            # An HSM that chooses the IV may refuse to be given one.
            self._prepare(b"", aad, len(plaintext) + TAG_BYTES)
            rv = self.cryptoki.encrypt_init(self.handle, self._mechanism_address, key)
            self._iv_refused = not rv
        if rv:
            check(rv, "C_EncryptInit")
        rv = self.cryptoki.encrypt(self.handle, plaintext, len(plaintext), self._buffer_address, self._length_address)
        if rv:
            check(rv, "C_Encrypt")
        size = len(plaintext) + TAG_BYTES
        output = string_at(self._buffer_address, min(self._length.value, self._size))
        if len(output) == size + APPENDED_IV and self._gcm_iv == "appended":
            self._generator.check(output[size:])
            return output[size:], output[:size]
        if len(output) != size or not iv:
            raise CkrError("unexpected output length", "C_Encrypt")
        used = self._params_iv.raw[: len(iv)]
        if written:
            self._generator.check_iv(used)
        elif used != iv:
            raise CkrError("the token has put another IV in the place of ours", "C_Encrypt")
        return used, output

    @operation(Operation.DECRYPT_GCM)
    def decrypt_gcm(self, cka_id: bytes, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        """Decrypt by AES-GCM; `ciphertext` ends with the tag. The plaintext is returned only if the tag fits."""
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

    @operation(Operation.ENCRYPT_CBC_BLOCKS)
    def encrypt_cbc(self, cka_id: bytes, iv: bytes, blocks: bytes) -> bytes:
        """Encrypt whole blocks by AES-CBC (NIST SP 800-38A, 6.2). Never CBC_PAD: a token is known that gets it
        wrong."""
        module, key = self.cryptoki, self.key(cka_id)

        def encrypt(mechanism: c.CkMechanism, data: bytes) -> bytes:
            return self._one_part(module.encrypt_init, module.encrypt, "C_Encrypt", mechanism, key, data, len(data))

        if self._cbc_from_ecb:
            return encrypt_cbc(lambda block: encrypt(self._ecb, block), iv, blocks)
        self._iv.raw = iv
        return encrypt(self._cbc, blocks)

    def decrypt_cbc(self, cka_id: bytes, iv: bytes, blocks: bytes) -> bytes:
        """Decrypt what `encrypt_cbc` made. Authenticates nothing."""
        module, key = self.cryptoki, self.key(cka_id)

        def decrypt(mechanism: c.CkMechanism) -> bytes:
            return self._one_part(module.decrypt_init, module.decrypt, "C_Decrypt", mechanism, key, blocks, len(blocks))

        if self._cbc_from_ecb:
            return decrypt_cbc(lambda _: decrypt(self._ecb), iv, blocks)
        self._iv.raw = iv
        return decrypt(self._cbc)

    def hmac(self, cka_id: bytes, hash_: Hash, data: bytes) -> bytes:
        """Compute an HMAC (RFC 2104), all of it: 32 or 64 bytes."""
        module, key = self.cryptoki, self.key(cka_id, "hmac")
        mechanism, size = _HMACS[hash_]
        return self._one_part(
            module.sign_init, module.sign, "C_Sign", c.CkMechanism(mechanism, None, 0), key, data, size
        )

    def decrypt_oaep(self, cka_id: bytes, ciphertext: bytes) -> bytes:
        """Decrypt by RSAES-OAEP with SHA-256 (RFC 8017, 7.1.2). Anybody with the public key may have chosen the
        plaintext."""
        module, key = self.cryptoki, self.key(cka_id, "rsa")
        most = len(ciphertext)
        return self._one_part(
            module.decrypt_init, module.decrypt, "C_Decrypt", self._oaep, key, ciphertext, most, exactly=False
        )

    def sign(self, cka_id: bytes, kind: Literal["rsa", "ec"], data: bytes, most: int) -> bytes:
        """Sign a DigestInfo by RSASSA-PKCS1-v1_5 (RFC 8017, 8.2), or a hash by ECDSA, as r and s one after the other.

        most: the bytes of the signature, or more.
        """
        mechanism = c.CkMechanism(c.CKM_RSA_PKCS if kind == "rsa" else c.CKM_ECDSA, None, 0)
        return self.sign_by(mechanism, self.key(cka_id, kind), data, most)

    def sign_by(self, mechanism: c.CkMechanism, key: int, data: bytes, most: int) -> bytes:
        """Sign with the key of this handle. most: as of `sign`."""
        module = self.cryptoki
        return self._one_part(module.sign_init, module.sign, "C_Sign", mechanism, key, data, most, exactly=False)

    def _one_part(
        self,
        init: Callable[..., int],
        operation: Callable[..., int],
        name: str,
        mechanism: c.CkMechanism,
        key: int,
        data: bytes,
        size: int,
        *,
        exactly: bool = True,
    ) -> bytes:
        """Return what the operation gives for `data`: `size` bytes, or with exactly=False up to so many."""
        if size > self._size:
            self._resize(size)
        rv = init(self.handle, addressof(mechanism), key)
        if rv:
            check(rv, f"{name}Init")
        self._length.value = self._size
        rv = operation(self.handle, data, len(data), self._buffer_address, self._length_address)
        if rv:
            check(rv, name)
        given = self._length.value
        try:
            if given > size or (exactly and given < size):
                raise CkrError("unexpected output length", name)
            return string_at(self._buffer_address, given)
        finally:
            memset(self._buffer_address, 0, min(given, self._size))

    def _prepare(self, iv: bytes, aad: bytes, output: int) -> None:
        if output + TAG_BYTES > self._size:
            self._resize(output + TAG_BYTES)
        params = self._params
        if len(iv) > len(self._params_iv):
            self._params_iv = ctypes.create_string_buffer(len(iv))
        # A copy: what is written there by a token must not be anybody else's bytes.
        memmove(self._params_iv, iv, len(iv))
        params.pIv = addressof(self._params_iv) if iv else None
        params.ulIvLen = len(iv)
        params.ulIvBits = len(iv) * 8
        params.pAAD = aad
        params.ulAADLen = len(aad)
        self._length.value = self._size


def rsa_numbers_of(session: TokenSession, handle: int) -> RsaNumbers:
    """Return the public key that an object, private or public, tells. Raises CkrError."""
    raw = session.cryptoki.attributes(session.handle, handle, (c.CKA_MODULUS, c.CKA_PUBLIC_EXPONENT))
    modulus = int.from_bytes(raw.get(c.CKA_MODULUS, b""), "big")
    # Tokens need not keep the exponent with the private key; nearly all keys have this one.
    return RsaNumbers(modulus, int.from_bytes(raw.get(c.CKA_PUBLIC_EXPONENT, b""), "big") or _F4)
