"""The rarer calls of PKCS#11, one function each, checked: slots, sessions, objects, and one operation at a time.

Each takes the module's table of functions first, raises CkrError, and may block for as long as the token likes.
Types, structures and numbers are those of PKCS#11 3.0 (pkcs11t.h). The hot path has calls of its own, in
`kmsd.hsm.host.session`; this is for what happens seldom, and for looking at what a token can do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import Structure, addressof, byref, c_char, c_ubyte, c_ulong, sizeof
from dataclasses import dataclass
from typing import Final

from kmsd.hsm.ckr import CkrError, check
from kmsd.hsm.host.cryptoki import Attribute, CkMechanism, Cryptoki
from kmsd.hsm.host.function_list import FunctionTable

Value = bytes | int | bool
"""An attribute: bytes as they are, int as CK_ULONG, bool as CK_BBOOL."""
Template = Mapping[int, Value]

CKF_RW_SESSION: Final = 0x02
CKF_SERIAL_SESSION: Final = 0x04
_NO_COUNT: Final = 1 << 31
"""CK_UNAVAILABLE_INFORMATION is -1 as an unsigned number; openCryptoki says -2."""

TOKEN_FLAGS: Final = {
    0x00000001: "RNG",
    0x00000002: "WRITE_PROTECTED",
    0x00000004: "LOGIN_REQUIRED",
    0x00000008: "USER_PIN_INITIALIZED",
    0x00000020: "RESTORE_KEY_NOT_NEEDED",
    0x00000040: "CLOCK_ON_TOKEN",
    0x00000100: "PROTECTED_AUTHENTICATION_PATH",
    0x00000200: "DUAL_CRYPTO_OPERATIONS",
    0x00000400: "TOKEN_INITIALIZED",
    0x00000800: "SECONDARY_AUTHENTICATION",
    0x00010000: "USER_PIN_COUNT_LOW",
    0x00020000: "USER_PIN_FINAL_TRY",
    0x00040000: "USER_PIN_LOCKED",
    0x00080000: "USER_PIN_TO_BE_CHANGED",
    0x00100000: "SO_PIN_COUNT_LOW",
    0x00200000: "SO_PIN_FINAL_TRY",
    0x00400000: "SO_PIN_LOCKED",
    0x00800000: "SO_PIN_TO_BE_CHANGED",
    0x01000000: "ERROR_STATE",
}
"""CKF_* of CK_TOKEN_INFO without the prefix."""
_MOST_SLOTS: Final = 4096
_MOST_OUTPUT: Final = 1 << 20


class _Version(Structure):
    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class _Info(Structure):
    _fields_ = (
        ("cryptokiVersion", _Version),
        ("manufacturerID", c_char * 32),
        ("flags", c_ulong),
        ("libraryDescription", c_char * 32),
        ("libraryVersion", _Version),
    )


class _SlotInfo(Structure):
    _fields_ = (
        ("slotDescription", c_char * 64),
        ("manufacturerID", c_char * 32),
        ("flags", c_ulong),
        ("hardwareVersion", _Version),
        ("firmwareVersion", _Version),
    )


class _TokenInfo(Structure):
    _fields_ = (
        ("label", c_char * 32),
        ("manufacturerID", c_char * 32),
        ("model", c_char * 16),
        ("serialNumber", c_char * 16),
        ("flags", c_ulong),
        ("ulMaxSessionCount", c_ulong),
        ("ulSessionCount", c_ulong),
        ("ulMaxRwSessionCount", c_ulong),
        ("ulRwSessionCount", c_ulong),
        ("ulMaxPinLen", c_ulong),
        ("ulMinPinLen", c_ulong),
        ("ulTotalPublicMemory", c_ulong),
        ("ulFreePublicMemory", c_ulong),
        ("ulTotalPrivateMemory", c_ulong),
        ("ulFreePrivateMemory", c_ulong),
        ("hardwareVersion", _Version),
        ("firmwareVersion", _Version),
        ("utcTime", c_char * 16),
    )


class _MechanismInfo(Structure):
    _fields_ = (("ulMinKeySize", c_ulong), ("ulMaxKeySize", c_ulong), ("flags", c_ulong))


class _SessionInfo(Structure):
    _fields_ = (("slotID", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("ulDeviceError", c_ulong))


@dataclass(frozen=True)
class LibraryInfo:
    """The CK_INFO of the module itself."""

    manufacturer: str
    description: str
    version: str
    cryptoki: str


@dataclass(frozen=True)
class SlotInfo:
    """The CK_SLOT_INFO of a slot."""

    description: str
    manufacturer: str
    token_present: bool


@dataclass(frozen=True)
class TokenInfo:
    """The CK_TOKEN_INFO of a token."""

    label: str
    manufacturer: str
    model: str
    serial: str
    flags: frozenset[str]
    max_sessions: int | None
    """None: no bound that the token would name."""
    open_sessions: int | None
    """Number of sessions of all programs; None: the token does not tell."""
    firmware: str
    max_rw_sessions: int | None = None
    open_rw_sessions: int | None = None


@dataclass(frozen=True)
class MechanismInfo:
    """The CK_MECHANISM_INFO of a mechanism. Sizes are in bits or bytes, as the mechanism (and the vendor) has it."""

    smallest: int
    largest: int
    flags: int


def library_info(table: FunctionTable) -> LibraryInfo:
    """Call C_GetInfo (5.4.3)."""
    info = _Info()
    check(table.C_GetInfo(byref(info)), "C_GetInfo")
    return LibraryInfo(
        _text(info, "manufacturerID"),
        _text(info, "libraryDescription"),
        _version(info.libraryVersion),
        _version(info.cryptokiVersion),
    )


def slot_ids(table: FunctionTable) -> list[int]:
    """Call C_GetSlotList (5.5.1), for all slots, with a token or without."""
    count = c_ulong(0)
    check(table.C_GetSlotList(0, None, byref(count)), "C_GetSlotList")
    for _ in range(3):
        # A slot may come between the two calls.
        size = min(count.value + 8, _MOST_SLOTS)
        slots = (c_ulong * size)()
        count.value = size
        rv = table.C_GetSlotList(0, slots, byref(count))
        if rv != 0x150:
            check(rv, "C_GetSlotList")
            return list(slots[: count.value])
    raise CkrError("CKR_BUFFER_TOO_SMALL", "C_GetSlotList")


def slot_info(table: FunctionTable, slot: int) -> SlotInfo:
    """Call C_GetSlotInfo (5.5.2)."""
    info = _SlotInfo()
    check(table.C_GetSlotInfo(slot, byref(info)), "C_GetSlotInfo")
    return SlotInfo(_text(info, "slotDescription"), _text(info, "manufacturerID"), bool(info.flags & 1))


def token_info(table: FunctionTable, slot: int) -> TokenInfo:
    """Call C_GetTokenInfo (5.5.3)."""
    info = _TokenInfo()
    check(table.C_GetTokenInfo(slot, byref(info)), "C_GetTokenInfo")
    return TokenInfo(
        label=_text(info, "label"),
        manufacturer=_text(info, "manufacturerID"),
        model=_text(info, "model"),
        serial=_text(info, "serialNumber"),
        flags=frozenset(name for bit, name in TOKEN_FLAGS.items() if info.flags & bit),
        # A bound of 0 is none at all (CK_EFFECTIVELY_INFINITE).
        max_sessions=_told(info.ulMaxSessionCount) or None,
        open_sessions=_told(info.ulSessionCount),
        firmware=_version(info.firmwareVersion),
        max_rw_sessions=_told(info.ulMaxRwSessionCount) or None,
        open_rw_sessions=_told(info.ulRwSessionCount),
    )


def _told(count: int) -> int | None:
    return count if count < _NO_COUNT else None


def mechanisms(table: FunctionTable, slot: int) -> frozenset[int]:
    """Call C_GetMechanismList (5.5.5), for what the token says it can do."""
    count = c_ulong(0)
    check(table.C_GetMechanismList(slot, None, byref(count)), "C_GetMechanismList")
    found = (c_ulong * (count.value + 1))()
    check(table.C_GetMechanismList(slot, found, byref(count)), "C_GetMechanismList")
    return frozenset(found[: count.value])


def mechanism_info(table: FunctionTable, slot: int, mechanism: int) -> MechanismInfo:
    """Call C_GetMechanismInfo (5.5.6)."""
    info = _MechanismInfo()
    check(table.C_GetMechanismInfo(slot, mechanism, byref(info)), "C_GetMechanismInfo")
    return MechanismInfo(info.ulMinKeySize, info.ulMaxKeySize, info.flags)


def open_session(table: FunctionTable, slot: int, *, rw: bool = False) -> int:
    """Call C_OpenSession (5.6.1); return the session's handle."""
    handle = c_ulong(0)
    flags = CKF_SERIAL_SESSION | (CKF_RW_SESSION if rw else 0)
    check(table.C_OpenSession(slot, flags, None, None, byref(handle)), "C_OpenSession")
    return handle.value


def close_session(table: FunctionTable, session: int) -> None:
    """Call C_CloseSession (5.6.2). The last one of a token logs the program out."""
    check(table.C_CloseSession(session), "C_CloseSession")


def logged_in(table: FunctionTable, session: int) -> bool:
    """Call C_GetSessionInfo (5.6.4); return whether the user is logged in, by whatever session of this program."""
    info = _SessionInfo()
    check(table.C_GetSessionInfo(session, byref(info)), "C_GetSessionInfo")
    return info.state in {1, 3}


def log_in(cryptoki: Cryptoki, session: int, pin: str) -> None:
    """Call C_Login for the user (5.6.8). Raises CkrError.

    CKR_USER_ALREADY_LOGGED_IN is said of another session of this process, or of all that reach the token through one
    server: what counts is whether this session is that of a user.
    """
    try:
        cryptoki.login(session, pin)
    except CkrError as error:
        if error.name != "CKR_USER_ALREADY_LOGGED_IN" or not logged_in(cryptoki.table, session):
            raise


def logout(table: FunctionTable, session: int) -> None:
    """Call C_Logout (5.6.9)."""
    check(table.C_Logout(session), "C_Logout")


def init_pin(table: FunctionTable, session: int, pin: str) -> None:
    """Call C_InitPIN (5.5.8), with which the SO sets the user's PIN."""
    data = pin.encode()
    check(table.C_InitPIN(session, data, len(data)), "C_InitPIN")


def random(table: FunctionTable, session: int, size: int) -> bytes:
    """Call C_GenerateRandom (5.16.2) for `size` bytes."""
    buffer = ctypes.create_string_buffer(size)
    check(table.C_GenerateRandom(session, buffer, size), "C_GenerateRandom")
    return buffer.raw


def create_object(table: FunctionTable, session: int, template: Template) -> int:
    """Call C_CreateObject (5.7.1); return the object's handle."""
    keep, attributes = pack(template)
    handle = c_ulong(0)
    check(table.C_CreateObject(session, attributes, len(keep), byref(handle)), "C_CreateObject")
    return handle.value


def copy_object(table: FunctionTable, session: int, handle: int, template: Template) -> int:
    """Call C_CopyObject (5.7.2) with these attributes changed; return the handle of the copy."""
    keep, attributes = pack(template)
    copy = c_ulong(0)
    check(table.C_CopyObject(session, handle, attributes, len(keep), byref(copy)), "C_CopyObject")
    return copy.value


def destroy_object(table: FunctionTable, session: int, handle: int) -> None:
    """Call C_DestroyObject (5.7.3)."""
    check(table.C_DestroyObject(session, handle), "C_DestroyObject")


def set_attributes(table: FunctionTable, session: int, handle: int, template: Template) -> None:
    """Call C_SetAttributeValue (5.7.6)."""
    keep, attributes = pack(template)
    check(table.C_SetAttributeValue(session, handle, attributes, len(keep)), "C_SetAttributeValue")


def generate_key(table: FunctionTable, session: int, mechanism: int, template: Template) -> int:
    """Call C_GenerateKey (5.14.1) for a mechanism without a parameter; return the key's handle."""
    keep, attributes = pack(template)
    handle = c_ulong(0)
    generating = CkMechanism(mechanism, None, 0)
    check(table.C_GenerateKey(session, byref(generating), attributes, len(keep), byref(handle)), "C_GenerateKey")
    return handle.value


def generate_key_pair(
    table: FunctionTable, session: int, mechanism: int, public: Template, private: Template
) -> tuple[int, int]:
    """Call C_GenerateKeyPair (5.14.2); return the handles of the public and the private key."""
    keep_public, public_attributes = pack(public)
    keep_private, private_attributes = pack(private)
    handles = c_ulong(0), c_ulong(0)
    generating = CkMechanism(mechanism, None, 0)
    rv = table.C_GenerateKeyPair(
        *(session, byref(generating)),
        *(public_attributes, len(keep_public), private_attributes, len(keep_private)),
        *map(byref, handles),
    )
    check(rv, "C_GenerateKeyPair")
    return handles[0].value, handles[1].value


def encrypt(table: FunctionTable, session: int, key: int, mechanism: int, parameter: Parameter, data: bytes) -> bytes:
    """Call C_EncryptInit and C_Encrypt (5.8) in one go."""
    # Kept until the end: there are tokens that write the IV of AES-GCM when they encrypt.
    encrypting = _mechanism(mechanism, parameter)
    check(table.C_EncryptInit(session, byref(encrypting), key), "C_EncryptInit")
    return _one_go(table, "C_Encrypt", session, data)


def decrypt(table: FunctionTable, session: int, key: int, mechanism: int, parameter: Parameter, data: bytes) -> bytes:
    """Call C_DecryptInit and C_Decrypt (5.9) in one go."""
    check(table.C_DecryptInit(session, byref(_mechanism(mechanism, parameter)), key), "C_DecryptInit")
    return _one_go(table, "C_Decrypt", session, data)


def sign(table: FunctionTable, session: int, key: int, mechanism: int, data: bytes) -> bytes:
    """Call C_SignInit and C_Sign (5.11) in one go, for a mechanism without a parameter."""
    check(table.C_SignInit(session, byref(_mechanism(mechanism, None)), key), "C_SignInit")
    return _one_go(table, "C_Sign", session, data)


Parameter = Structure | bytes | None
"""The parameter of a mechanism: a structure, an IV, or nothing."""


def _mechanism(mechanism: int, parameter: Parameter) -> CkMechanism:
    match parameter:
        case None:
            return CkMechanism(mechanism, None, 0)
        case bytes():
            held = ctypes.create_string_buffer(parameter, len(parameter))
            made = CkMechanism(mechanism, addressof(held), len(parameter))
            made.held = held
        case Structure():
            made = CkMechanism(mechanism, addressof(parameter), sizeof(parameter))
            made.held = parameter
    return made


def _one_go(table: FunctionTable, function: str, session: int, data: bytes) -> bytes:
    # No first call that asks for the size: that is one more round trip, and some tokens end the operation by it.
    size = min(len(data) + 1024, _MOST_OUTPUT)
    output = ctypes.create_string_buffer(size)
    length = c_ulong(size)
    check(getattr(table, function)(session, data, len(data), output, byref(length)), function)
    if length.value > size:
        raise CkrError("unexpected output length", function)
    return output.raw[: length.value]


def pack(template: Template) -> tuple[list[ctypes.Array[c_char]], ctypes.Array[Attribute]]:
    """Return a template as C reads it, and what must be kept alive as long."""
    keep = [ctypes.create_string_buffer(raw, len(raw)) for raw in map(_raw, template.values())]
    attributes = (Attribute * len(keep))(
        *(Attribute(kind, addressof(held), len(held)) for kind, held in zip(template, keep, strict=True))
    )
    return keep, attributes


def _raw(value: Value) -> bytes:
    match value:
        case bool():
            return b"\x01" if value else b"\x00"
        case int():
            return bytes(c_ulong(value))
        case bytes():
            return value


def _text(info: Structure, field: str) -> str:
    """Return a padded field. Read as raw memory: ctypes ends a char array at its first NUL, the standard pads with
    blanks."""
    descriptor = getattr(type(info), field)
    raw = ctypes.string_at(addressof(info) + descriptor.offset, descriptor.size)
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _version(version: _Version) -> str:
    return f"{version.major}.{version.minor}"
