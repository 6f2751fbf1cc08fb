"""Ask a module what it, its slots, its tokens and its mechanisms are (PKCS#11 3.0, 5.4 and 5.5), in words.

Each function takes the module's table of functions first and raises CkrError.
"""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import Structure, addressof, byref, c_char, c_ubyte, c_ulong
from dataclasses import dataclass
from typing import Final

from kmsd.hsm.ckr import CkrError, check
from kmsd.hsm.host.function_list import FunctionTable

_NO_COUNT: Final = 1 << 31
"""CK_UNAVAILABLE_INFORMATION is -1 as an unsigned number; openCryptoki says -2."""
_MOST_SLOTS: Final = 4096

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
_MECHANISM_FLAGS: Final = {
    0x001: "hw",
    0x100: "encrypt",
    0x200: "decrypt",
    0x400: "digest",
    0x800: "sign",
    0x1000: "sign recover",
    0x2000: "verify",
    0x4000: "verify recover",
    0x8000: "generate",
    0x10000: "generate key pair",
    0x20000: "wrap",
    0x40000: "unwrap",
    0x80000: "derive",
}
"""CKF_* of CK_MECHANISM_INFO that say what a mechanism does (PKCS#11 3.0, table 13)."""


@dataclass(frozen=True)
class LibraryInfo:
    """The CK_INFO of the module itself."""

    manufacturer: str
    description: str
    version: str
    cryptoki: str


@dataclass(frozen=True)
class TokenView:
    """The CK_TOKEN_INFO (PKCS#11 3.0, 3.2) of one token, in words."""

    label: str
    serial: str
    model: str
    manufacturer: str
    flags: frozenset[str]
    """Names of CKF_* without the prefix, for example USER_PIN_LOCKED."""

    @property
    def pin_warnings(self) -> tuple[str, ...]:
        """The warnings of the flags about the user PIN, worst first."""
        said = {
            "USER_PIN_LOCKED": "the user PIN is locked",
            "USER_PIN_FINAL_TRY": "one more wrong user PIN locks it",
            "USER_PIN_COUNT_LOW": "a wrong user PIN was given since the last login",
            "USER_PIN_TO_BE_CHANGED": "the user PIN must be changed",
        }
        warnings = [text for flag, text in said.items() if flag in self.flags]
        if "USER_PIN_INITIALIZED" not in self.flags:
            warnings.append("no user PIN is set")
        return tuple(warnings)


@dataclass(frozen=True)
class SessionCounts:
    """The open sessions of all programs, and how many there may be (CK_TOKEN_INFO); None: the token does not tell, or
    sets no limit."""

    open: int | None
    most: int | None
    rw_open: int | None
    rw_most: int | None


@dataclass(frozen=True)
class MechanismView:
    """The CK_MECHANISM_INFO (PKCS#11 3.0, 3.3) of a mechanism. name: as "CKM_AES_GCM". flags: CKF_* in words. Sizes are
    in the unit that the mechanism counts in."""

    type: int
    name: str
    min_key: int
    max_key: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class SlotView:
    """The CK_SLOT_INFO (PKCS#11 3.0, 3.2) of a slot, and the token in it, if there is one."""

    slot_id: int
    description: str
    manufacturer: str
    token: TokenView | None
    module: str
    sessions: SessionCounts | None


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


def slot_view(table: FunctionTable, slot: int, module: str) -> SlotView:
    """Describe a slot and the token in it, if there is one. module: path."""
    info = _SlotInfo()
    try:
        check(table.C_GetSlotInfo(slot, byref(info)), "C_GetSlotInfo")
        description = _text(info, "slotDescription")
    except CkrError as error:
        # One slot that is broken takes no other with it.
        description = f"broken ({error})"
    token = sessions = None
    with contextlib.suppress(CkrError):
        token, sessions = token_view(table, slot)
    return SlotView(slot, description, _text(info, "manufacturerID"), token, module, sessions)


def token_view(table: FunctionTable, slot: int) -> tuple[TokenView, SessionCounts]:
    """Describe the token in a slot, and count its sessions."""
    info = _TokenInfo()
    check(table.C_GetTokenInfo(slot, byref(info)), "C_GetTokenInfo")
    view = TokenView(
        label=_text(info, "label"),
        serial=_text(info, "serialNumber"),
        model=_text(info, "model"),
        manufacturer=_text(info, "manufacturerID"),
        flags=frozenset(name for bit, name in TOKEN_FLAGS.items() if info.flags & bit),
    )
    # A bound of 0 is none at all (CK_EFFECTIVELY_INFINITE).
    counts = SessionCounts(
        open=_told(info.ulSessionCount),
        most=_told(info.ulMaxSessionCount) or None,
        rw_open=_told(info.ulRwSessionCount),
        rw_most=_told(info.ulMaxRwSessionCount) or None,
    )
    return view, counts


def _told(count: int) -> int | None:
    return count if count < _NO_COUNT else None


def mechanisms(table: FunctionTable, slot: int) -> frozenset[int]:
    """Call C_GetMechanismList (5.5.5), for what the token says it can do."""
    count = c_ulong(0)
    check(table.C_GetMechanismList(slot, None, byref(count)), "C_GetMechanismList")
    found = (c_ulong * (count.value + 1))()
    check(table.C_GetMechanismList(slot, found, byref(count)), "C_GetMechanismList")
    return frozenset(found[: count.value])


def mechanism_view(table: FunctionTable, slot: int, mechanism: int) -> MechanismView:
    """Describe what a token says of a mechanism."""
    info = _MechanismInfo()
    check(table.C_GetMechanismInfo(slot, mechanism, byref(info)), "C_GetMechanismInfo")
    flags = tuple(words for bit, words in _MECHANISM_FLAGS.items() if info.flags & bit)
    return MechanismView(mechanism, mechanism_name(mechanism), info.ulMinKeySize, info.ulMaxKeySize, flags)


def mechanism_name(number: int) -> str:
    """Return a mechanism's name as PKCS#11 writes it; a vendor's own by its number."""
    # Here, because nothing else needs the library, and few ask.
    from pkcs11.mechanisms import Mechanism

    try:
        # The library puts "_" before the names that it counts as old: _MD5 is CKM_MD5.
        return f"CKM_{Mechanism(number).name.lstrip('_')}"
    except ValueError:
        return f"CKM 0x{number:08x}"


def _text(info: Structure, field: str) -> str:
    """Return a padded field. Read as raw memory: ctypes ends a char array at its first NUL, the standard pads with
    blanks."""
    descriptor = getattr(type(info), field)
    raw = ctypes.string_at(addressof(info) + descriptor.offset, descriptor.size)
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _version(version: _Version) -> str:
    return f"{version.major}.{version.minor}"
