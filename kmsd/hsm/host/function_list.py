"""The functions of a PKCS#11 module, from the table that the module itself hands out.

C_GetFunctionList (PKCS#11 3.0, 5.4.4) is the one function that every module exports. Most export the others under their
names too, but not p11-kit's client and proxy: they make a new, independent instance, with a table of its own, for
every caller of C_GetFunctionList. So it is called once per module here, and everything goes through that table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any, Final

from kmsd.hsm.ckr import check

CKR_FUNCTION_NOT_SUPPORTED: Final = 0x54

NAMES: Final = tuple(
    """
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
    C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
    C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject
    C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit
    C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt
    C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign
    C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal
    C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate
    C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom
    C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
    """.split()  # noqa: SIM905  a list of 68 literals would be a page
)
"""Names in the order of CK_FUNCTION_LIST, which no version has changed since 2.01."""


class _FunctionList(Structure):
    _fields_ = (("major", c_ubyte), ("minor", c_ubyte), *((name, c_void_p) for name in NAMES))


class FunctionTable:
    """An instance of a module, loaded by the dynamic linker; nothing of it has been called but C_GetFunctionList.

    Its attributes are the functions, for example `table.C_Encrypt`: called with the arguments of the C function, they
    return the CK_RV as an int, and hand back the interpreter lock meanwhile.

    so: path of the module. Raises OSError if it cannot be loaded, AttributeError if it is no PKCS#11 module, CkrError.
    """

    def __init__(self, so: str) -> None:
        self._dll = ctypes.CDLL(so)
        get = self._dll.C_GetFunctionList
        get.argtypes = [c_void_p]
        get.restype = c_ulong
        address = c_void_p()
        check(get(byref(address)), "C_GetFunctionList")
        if not address.value:
            raise AttributeError("C_GetFunctionList gives no functions")
        functions = _FunctionList.from_address(address.value)
        if functions.major not in (2, 3):
            raise AttributeError(f"it speaks version {functions.major}.{functions.minor} of PKCS#11, not 2 or 3")
        self.version = (functions.major, functions.minor)
        """Version of the specification that the table follows: (2, 40) for example."""
        for name, arguments in _SIGNATURES.items():
            setattr(self, name, _function(getattr(functions, name), arguments))

    def __getattr__(self, name: str) -> Any:
        """Refuse functions without a signature."""
        raise AttributeError(f"{name} has no signature")


def _function(address: int | None, arguments: list[object]) -> Callable[..., int]:
    if address is None:
        return lambda *_: CKR_FUNCTION_NOT_SUPPORTED
    return CFUNCTYPE(c_ulong, *arguments)(address)  # type: ignore[arg-type]  # the types of c_char_p and of void *


_SIGNATURES: Final[dict[str, list[object]]] = {
    "C_Initialize": [c_void_p],
    "C_Finalize": [c_void_p],
    "C_InitToken": [c_ulong, c_char_p, c_ulong, c_char_p],
    "C_FindObjectsInit": [c_ulong, c_void_p, c_ulong],
    "C_FindObjects": [c_ulong, c_void_p, c_ulong, POINTER(c_ulong)],
    "C_FindObjectsFinal": [c_ulong],
    "C_GetAttributeValue": [c_ulong, c_ulong, c_void_p, c_ulong],
    "C_GetInfo": [c_void_p],
    "C_GetSlotList": [c_ubyte, c_void_p, POINTER(c_ulong)],
    "C_GetSlotInfo": [c_ulong, c_void_p],
    "C_GetTokenInfo": [c_ulong, c_void_p],
    "C_GetMechanismList": [c_ulong, c_void_p, POINTER(c_ulong)],
    "C_GetMechanismInfo": [c_ulong, c_ulong, c_void_p],
    "C_InitPIN": [c_ulong, c_char_p, c_ulong],
    "C_OpenSession": [c_ulong, c_ulong, c_void_p, c_void_p, POINTER(c_ulong)],
    "C_CloseSession": [c_ulong],
    "C_GetSessionInfo": [c_ulong, c_void_p],
    "C_Login": [c_ulong, c_ulong, c_char_p, c_ulong],
    "C_CreateObject": [c_ulong, c_void_p, c_ulong, POINTER(c_ulong)],
    "C_CopyObject": [c_ulong, c_ulong, c_void_p, c_ulong, POINTER(c_ulong)],
    "C_DestroyObject": [c_ulong, c_ulong],
    "C_SetAttributeValue": [c_ulong, c_ulong, c_void_p, c_ulong],
    "C_GenerateKey": [c_ulong, c_void_p, c_void_p, c_ulong, POINTER(c_ulong)],
    "C_GenerateKeyPair": [
        *(c_ulong, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong),
        *(POINTER(c_ulong), POINTER(c_ulong)),
    ],
    "C_UnwrapKey": [
        *(c_ulong, c_void_p, c_ulong, c_char_p, c_ulong),
        *(c_void_p, c_ulong, POINTER(c_ulong)),
    ],
    "C_GenerateRandom": [c_ulong, c_void_p, c_ulong],
    "C_EncryptInit": [c_ulong, c_void_p, c_ulong],
    "C_Encrypt": [c_ulong, c_char_p, c_ulong, c_void_p, c_void_p],
    "C_DecryptInit": [c_ulong, c_void_p, c_ulong],
    "C_Decrypt": [c_ulong, c_char_p, c_ulong, c_void_p, c_void_p],
    "C_SignInit": [c_ulong, c_void_p, c_ulong],
    "C_Sign": [c_ulong, c_char_p, c_ulong, c_void_p, c_void_p],
    "C_VerifyInit": [c_ulong, c_void_p, c_ulong],
    "C_Verify": [c_ulong, c_char_p, c_ulong, c_char_p, c_ulong],
}
