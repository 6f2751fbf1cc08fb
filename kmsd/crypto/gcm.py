"""AES-GCM JWEs made and opened by a key on the token, in the native and in k8s-kms-plugin's form.

Knows keys by CKA_ID and forms by their header; which key it is to be, the keyring says.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from kmsd.deadline import after, left
from kmsd.errors import InvalidRequest, KmsdError, WrongPlaintext, WrongResult
from kmsd.formats import jwe, k8s_kms_plugin
from kmsd.formats.jwe import Jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import TAG_BYTES, KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.operation import Operation, operation

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm

NATIVE_IV_BYTES: Final = 12
"""The length of the IV that RFC 7518, 5.3 demands."""


MAY_BE_TAG: Final = frozenset(
    {
        "CKR_AEAD_DECRYPT_FAILED",
        "CKR_ENCRYPTED_DATA_INVALID",
        "CKR_ENCRYPTED_DATA_LEN_RANGE",
        "CKR_DATA_INVALID",
        "CKR_DATA_LEN_RANGE",
        "CKR_GENERAL_ERROR",
        "CKR_FUNCTION_FAILED",
        "CKR_DEVICE_ERROR",
    }
)
"""The answers by which tokens say that a tag does not fit, when they do not fail for other reasons."""

_DISOWNED: Final = MAY_BE_TAG - {"CKR_DEVICE_ERROR"}
"""The answers that, given to what the token has just encrypted itself, show that it encrypts or decrypts wrongly."""


class TagMismatch(InvalidRequest):
    """The ciphertext was altered, or this is not the key that wrote it. One sentence for all that shows it."""

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(
            message or "the ciphertext does not authenticate: it was altered, or another key wrote it",
            hint or "restore the stored object from a backup, or the key that wrote it",
        )


def enc_for(bits: int) -> str:
    """Return the JWE `enc` for an AES key of this size (RFC 7518, 5.3)."""
    return f"A{bits}GCM"


@operation(Operation.ENCRYPT_GCM)
def encrypt_native(session: TokenSession, cka_id: bytes, header: bytes, plaintext: bytes) -> bytes:
    """Make a compact JWE. Runs on a thread of the token; `header` is the encoded first segment and the AAD."""
    iv, sealed = session.encrypt_gcm(cka_id, NATIVE_IV_BYTES, header, plaintext)
    return jwe.assemble(header, iv, sealed)


@operation(Operation.ENCRYPT_GCM_LEGACY)
def encrypt_legacy(session: TokenSession, cka_id: bytes, header: bytes, plaintext: bytes) -> bytes:
    """Make a compact JWE in k8s-kms-plugin's form, with an IV of 16 bytes. Runs on a thread of the token."""
    iv, sealed = session.encrypt_gcm(cka_id, k8s_kms_plugin.IV_BYTES, header, plaintext)
    return jwe.assemble(header, iv, sealed)


async def attempt(hsm: Hsm, cka_id: bytes, sealed: Jwe, timeout: float) -> bytes | None:
    """Return the plaintext; None if the tag does not fit, or the token fails twice in a way that looks the same: which
    it is, `show_working` tells. Raises KmsdError."""
    if sealed.alg != jwe.DIRECT or sealed.enc not in jwe.GCM:
        raise InvalidRequest("the ciphertext names a key for AES-GCM, and is not in that mode", jwe.NOT_OURS)
    if len(sealed.tag) != TAG_BYTES or not sealed.iv:
        raise InvalidRequest(
            f"the authentication tag has {len(sealed.tag)} bytes where {TAG_BYTES} are needed", jwe.NOT_OURS
        )
    until = after(timeout)
    # The workers do not repeat it: a writer to etcd could have them suspect the token all the time.
    for number, retry in enumerate((False, False, True)):
        try:
            return await hsm.submit(
                TokenSession.decrypt_gcm,
                cka_id,
                sealed.iv,
                sealed.header,
                sealed.ciphertext + sealed.tag,
                timeout=left(until),
                retry=retry,
            )
        except CkrError as error:
            if error.function == "C_Decrypt" and error.name in MAY_BE_TAG:
                if number:
                    return None
            elif retry or not (error.stale_session or error.lost):
                raise hsm.explain(error) from error
        except (KeyMissingError, KeyAmbiguousError) as error:
            raise hsm.explain(error) from error
    raise AssertionError("unreachable")


async def show_working(hsm: Hsm, cka_id: bytes, timeout: float, *, encrypts: bool) -> None:
    """Have the token show that it works: with this key if it may encrypt. Raises KmsdError if it does not."""
    if encrypts:
        await round_trip(hsm, cka_id, timeout)
    else:
        await hsm.run(TokenSession.random, 8, timeout=timeout)


async def round_trip(hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
    """Encrypt and decrypt random bytes with this key; return the seconds that each took. Raises KmsdError if it fails,
    among them WrongResult if the token does not open what it has just encrypted."""
    try:
        return await hsm.run(round_trip_here, cka_id, timeout=timeout)
    except KmsdError as error:
        cause = error.__cause__
        if isinstance(cause, CkrError) and cause.function == "C_Decrypt" and cause.name in _DISOWNED:
            raise not_opened(f": {cause.name}") from error
        raise


@operation(Operation.PROBE_GCM)
def round_trip_here(session: TokenSession, cka_id: bytes) -> tuple[float, float]:
    """Make one `round_trip` on a thread of the token. Raises CkrError, WrongResult."""
    plaintext = session.iv(16)
    began = perf_counter()
    iv, sealed = session.encrypt_gcm(cka_id, NATIVE_IV_BYTES, b"kmsd round trip", plaintext)
    encrypted = perf_counter()
    if session.decrypt_gcm(cka_id, iv, b"kmsd round trip", sealed) != plaintext:
        raise opened_wrongly()
    return encrypted - began, perf_counter() - encrypted


def opened_wrongly() -> WrongPlaintext:
    """Return the error of a token that decrypts what it has just encrypted to something else, as if all were well."""
    return WrongPlaintext(
        "the token does not decrypt what it has just encrypted, it gives other bytes: nothing is encrypted with it, "
        "nor decrypted",
        "have the token looked at (kmsctl doctor); kmsd tries it again at each round trip for health",
    )


def not_opened(how: str = "") -> WrongResult:
    """Return the error of a token that does not give back what it has just encrypted. how: in words, if it says so
    itself."""
    return WrongResult(
        f"the token does not decrypt what it has just encrypted{how}: nothing is encrypted with it",
        "have the token looked at (kmsctl doctor); kmsd tries it again at each round trip for health",
    )
