"""The rarer calls of PKCS#11, one function each, checked: sessions, objects, and one operation at a time.

Each takes the module's table of functions first, raises CkrError, and may block for as long as the token likes.
Types, structures and numbers are those of PKCS#11 3.0 (pkcs11t.h). The hot path has calls of its own, in
`kmsd.hsm.host.session`; this is for what happens seldom, and for looking at what a token can do.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, addressof, byref, c_ulong, sizeof
from typing import Final

from kmsd.hsm.ckr import CkrError, check
from kmsd.hsm.host.cryptoki import CkMechanism, Cryptoki, Template, pack
from kmsd.hsm.host.function_list import FunctionTable

CKF_RW_SESSION: Final = 0x02
CKF_SERIAL_SESSION: Final = 0x04

_MOST_OUTPUT: Final = 1 << 20


class _SessionInfo(Structure):
    _fields_ = (("slotID", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("ulDeviceError", c_ulong))


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


def unwrap_key(
    table: FunctionTable,
    session: int,
    key: int,
    mechanism: int,
    parameter: Parameter,
    wrapped: bytes,
    template: Template,
) -> int:
    """Call C_UnwrapKey (5.14.4) with the key of this handle; return the handle of the key that was wrapped."""
    keep, attributes = pack(template)
    handle = c_ulong(0)
    unwrapping = _mechanism(mechanism, parameter)
    rv = table.C_UnwrapKey(
        *(session, byref(unwrapping), key, wrapped, len(wrapped)), *(attributes, len(keep), byref(handle))
    )
    check(rv, "C_UnwrapKey")
    return handle.value


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
