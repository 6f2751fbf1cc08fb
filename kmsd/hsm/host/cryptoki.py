"""The calls that python-pkcs11 cannot make the way a server needs them, through ctypes.

- C_Initialize with CKF_OS_LOCKING_OK. `pkcs11.lib()` passes NULL, which promises the module that only one
  thread will ever call it, and then lets every thread call it: SoftHSM crashes.
- C_Finalize, C_Login and C_InitToken on their own.
- Finding keys and reading their attributes without building a Python class per object, and encrypting with
  two C calls instead of three: each call hands the interpreter lock back and forth once.

Types and structures are those of PKCS#11 3.0 (pkcs11t.h), where CK_ULONG is C's unsigned long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import Structure, byref, c_char_p, c_ulong, c_void_p
from typing import Final

from kmsd.hsm.ckr import CkrError, check
from kmsd.hsm.host.function_list import FunctionTable

CKF_OS_LOCKING_OK: Final = 0x02
CKU_SO: Final = 0
CKU_USER: Final = 1
CKO_PUBLIC_KEY: Final = 2
CKO_PRIVATE_KEY: Final = 3
CKO_SECRET_KEY: Final = 4
CKK_RSA: Final = 0x00
CKK_EC: Final = 0x03
CKK_GENERIC_SECRET: Final = 0x10
CKK_AES: Final = 0x1F
CKK_HMAC: Final = frozenset({0x10, 0x28, 0x2B, 0x2C, 0x2D, 0x2E})
"""CKK_GENERIC_SECRET and CKK_SHA_1/256/384/512/224_HMAC."""
CKM_RSA_PKCS_KEY_PAIR_GEN: Final = 0x0000
CKM_RSA_PKCS: Final = 0x0001
CKM_RSA_PKCS_OAEP: Final = 0x0009
CKM_SHA_1: Final = 0x0220
CKM_RSA_PKCS_PSS: Final = 0x000D
CKM_SHA256: Final = 0x0250
CKM_SHA256_HMAC: Final = 0x0251
CKM_SHA384: Final = 0x0260
CKM_SHA512: Final = 0x0270
CKM_SHA512_HMAC: Final = 0x0271
CKM_GENERIC_SECRET_KEY_GEN: Final = 0x0350
CKM_EC_KEY_PAIR_GEN: Final = 0x1040
CKM_ECDSA: Final = 0x1041
CKM_AES_KEY_GEN: Final = 0x1080
CKM_AES_ECB: Final = 0x1081
CKM_AES_CBC: Final = 0x1082
CKM_AES_CBC_PAD: Final = 0x1085
CKM_AES_GCM: Final = 0x1087
CKM_AES_KEY_WRAP_PAD: Final = 0x210A
CKM_AES_KEY_WRAP_KWP: Final = 0x210B
CKG_MGF1_SHA1: Final = 1
CKG_MGF1_SHA256: Final = 2
CKG_MGF1_SHA384: Final = 3
CKG_MGF1_SHA512: Final = 4
CKZ_DATA_SPECIFIED: Final = 1

CKA_CLASS: Final = 0x00
CKA_TOKEN: Final = 0x01
CKA_PRIVATE: Final = 0x02
CKA_LABEL: Final = 0x03
CKA_VALUE: Final = 0x11
CKA_KEY_TYPE: Final = 0x100
CKA_ID: Final = 0x102
CKA_SENSITIVE: Final = 0x103
CKA_ENCRYPT: Final = 0x104
CKA_DECRYPT: Final = 0x105
CKA_WRAP: Final = 0x106
CKA_UNWRAP: Final = 0x107
CKA_SIGN: Final = 0x108
CKA_VERIFY: Final = 0x10A
CKA_DERIVE: Final = 0x10C
CKA_MODULUS: Final = 0x120
CKA_MODULUS_BITS: Final = 0x121
CKA_PUBLIC_EXPONENT: Final = 0x122
CKA_PRIVATE_EXPONENT: Final = 0x123
CKA_PRIME_1: Final = 0x124
CKA_PRIME_2: Final = 0x125
CKA_EXPONENT_1: Final = 0x126
CKA_EXPONENT_2: Final = 0x127
CKA_COEFFICIENT: Final = 0x128
CKA_VALUE_LEN: Final = 0x161
CKA_EXTRACTABLE: Final = 0x162
CKA_LOCAL: Final = 0x163
CKA_NEVER_EXTRACTABLE: Final = 0x164
CKA_ALWAYS_SENSITIVE: Final = 0x165
CKA_EC_PARAMS: Final = 0x180
CKA_EC_POINT: Final = 0x181

Value = bytes | int | bool
"""An attribute: bytes as they are, int as CK_ULONG, bool as CK_BBOOL."""
Template = Mapping[int, Value]

_READ_OK: Final = frozenset({"CKR_ATTRIBUTE_SENSITIVE", "CKR_ATTRIBUTE_TYPE_INVALID", "CKR_BUFFER_TOO_SMALL"})
"""C_GetAttributeValue fills what it can and marks the rest as unavailable (PKCS#11 3.0, 5.7.5)."""
_UNTOUCHED: Final = b"\xa5" * 1025
"""The content of a buffer before the call; no value that is given is as long."""


class CInitializeArgs(Structure):
    """The CK_C_INITIALIZE_ARGS structure (PKCS#11 3.0, 3.7)."""

    _fields_ = (
        ("CreateMutex", c_void_p),
        ("DestroyMutex", c_void_p),
        ("LockMutex", c_void_p),
        ("UnlockMutex", c_void_p),
        ("flags", c_ulong),
        ("pReserved", c_void_p),
    )


class Attribute(Structure):
    """The CK_ATTRIBUTE structure (PKCS#11 3.0, 3.4)."""

    _fields_ = (("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong))


class CkMechanism(Structure):
    """The CK_MECHANISM structure (PKCS#11 3.0, 3.5)."""

    _fields_ = (("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong))


class GcmParams(Structure):
    """The CK_GCM_PARAMS structure. pIv: address of a buffer of its own, for there are tokens that write there."""

    _fields_ = (
        ("pIv", c_void_p),
        ("ulIvLen", c_ulong),
        ("ulIvBits", c_ulong),
        ("pAAD", c_char_p),
        ("ulAADLen", c_ulong),
        ("ulTagBits", c_ulong),
    )


class RsaOaepParams(Structure):
    """The CK_RSA_PKCS_OAEP_PARAMS structure."""

    _fields_ = (
        ("hashAlg", c_ulong),
        ("mgf", c_ulong),
        ("source", c_ulong),
        ("pSourceData", c_void_p),
        ("ulSourceDataLen", c_ulong),
    )


class RsaPssParams(Structure):
    """The CK_RSA_PKCS_PSS_PARAMS structure."""

    _fields_ = (("hashAlg", c_ulong), ("mgf", c_ulong), ("sLen", c_ulong))


class Cryptoki:
    """A PKCS#11 module, loaded by the dynamic linker; nothing of it has been called yet.

    so: path of the module. Raises OSError if it cannot be loaded, AttributeError if it is no PKCS#11 module, CkrError.
    """

    def __init__(self, so: str) -> None:
        dll = self.table = FunctionTable(so)
        self._dll = dll
        self.encrypt_init = dll.C_EncryptInit
        self.encrypt = dll.C_Encrypt
        self.decrypt_init = dll.C_DecryptInit
        self.decrypt = dll.C_Decrypt
        self.sign_init = dll.C_SignInit
        self.sign = dll.C_Sign

    def initialize(self) -> bool:
        """Call C_Initialize for many threads. Return False if the module cannot lock: then use one thread only."""
        arguments = CInitializeArgs(flags=CKF_OS_LOCKING_OK)
        try:
            check(self._dll.C_Initialize(byref(arguments)), "C_Initialize")
        except CkrError as error:
            if error.name != "CKR_CANT_LOCK":
                raise
            check(self._dll.C_Initialize(None), "C_Initialize")
            return False
        return True

    def finalize(self) -> None:
        """Call C_Finalize. Crashes the process if any other thread is inside the module: drain them first."""
        check(self._dll.C_Finalize(None), "C_Finalize")

    def login(self, session: int, pin: str, user: int = CKU_USER) -> None:
        """Call C_Login (5.6.8). user: CKU_USER or CKU_SO."""
        data = pin.encode()
        check(self._dll.C_Login(session, user, data, len(data)), "C_Login")

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Call C_InitToken, which makes a token in a free slot. Destroys the token that may be there."""
        pin = so_pin.encode()
        name = label.encode().ljust(32)
        if len(name) > 32:
            raise ValueError("a token label has at most 32 bytes (PKCS#11 3.0, CK_TOKEN_INFO)")
        check(self._dll.C_InitToken(slot, pin, len(pin), name), "C_InitToken")

    def find(self, session: int, template: Template, most: int = 100_000) -> list[int]:
        """Find the handles of the objects that match, at most `most`."""
        keep, attributes = pack(template)
        check(self._dll.C_FindObjectsInit(session, attributes, len(keep)), "C_FindObjectsInit")
        handles: list[int] = []
        batch = (c_ulong * 256)()
        count = c_ulong(0)
        try:
            while len(handles) < most:
                check(self._dll.C_FindObjects(session, batch, 256, byref(count)), "C_FindObjects")
                if not count.value:
                    break
                handles.extend(batch[: count.value])
        finally:
            rv = self._dll.C_FindObjectsFinal(session)
        check(rv, "C_FindObjectsFinal")
        return handles

    def attributes(self, session: int, handle: int, types: tuple[int, ...]) -> dict[int, bytes]:
        """Return the raw values of those attributes that the token gives, each up to 1024 bytes. Raises CkrError."""
        given, whole = self._attributes(session, handle, types)
        if not whole and len(types) > 1:
            # A token may stop at the first one that it does not give, and leave those behind it as they were.
            for each in types:
                if each not in given:
                    given |= self._attributes(session, handle, (each,))[0]
        return given

    def _attributes(self, session: int, handle: int, types: tuple[int, ...]) -> tuple[dict[int, bytes], bool]:
        """Return what one call gives, and whether that is all. Raises CkrError."""
        buffers = [ctypes.create_string_buffer(_UNTOUCHED, len(_UNTOUCHED)) for _ in types]
        wanted = (Attribute * len(types))(
            *(Attribute(kind, ctypes.addressof(held), len(held)) for kind, held in zip(types, buffers, strict=True))
        )
        whole = True
        try:
            check(self._dll.C_GetAttributeValue(session, handle, wanted, len(types)), "C_GetAttributeValue")
        except CkrError as error:
            if error.name not in _READ_OK:
                raise
            whole = False
        given = {
            item.type: held.raw[: item.ulValueLen]
            for item, held in zip(wanted, buffers, strict=True)
            if item.ulValueLen < len(held) and (whole or not _UNTOUCHED.startswith(held.raw[: item.ulValueLen] or b"-"))
        }
        return given, whole


def _raw(value: Value) -> bytes:
    match value:
        case bool():
            return b"\x01" if value else b"\x00"
        case int():
            return bytes(c_ulong(value))
        case bytes():
            return value


def pack(template: Template) -> tuple[list[ctypes.Array[ctypes.c_char]], ctypes.Array[Attribute]]:
    """Return a template as C reads it, and what must be kept alive as long."""
    keep = [ctypes.create_string_buffer(raw, len(raw)) for raw in map(_raw, template.values())]
    attributes = (Attribute * len(keep))(
        *(Attribute(kind, ctypes.addressof(held), len(held)) for kind, held in zip(template, keep, strict=True))
    )
    return keep, attributes
