"""Try whether a token really does what it says: one mechanism, one key, one trial.

A mechanism that is listed may still be refused, give wrong bytes (tpm2-pkcs11's CKM_AES_CBC_PAD), or take another IV
than the caller's (HSMs in FIPS mode). So each trial uses it, reads back, and tries what must be refused.

A trial has a session of its own, because a failed operation can leave its session in the middle of it (PKCS#11 3.0,
5.2). It encrypts bytes of no meaning, never anybody's data. Knows nothing of where its keys come from.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.function_list import FunctionTable
from kmsd.hsm.vendors.quirks import GcmIv

TAG: Final = 16
APPENDED_IV: Final = 16
"""Bytes of the IV that Luna and ProtectServer HSMs in FIPS mode choose, and put behind the tag."""
WRITTEN_IV: Final = 12
"""Bytes of the IV that AWS CloudHSM chooses, and writes where it was given as many zeros."""
_AAD: Final = b"probe"


class NoSession(Exception):
    """The token has no session to spare now, which says nothing of what it can do."""


@dataclass(frozen=True)
class TrialPlace:
    """The place of a trial: a slot whose token is logged in to."""

    table: FunctionTable
    slot: int

    @contextlib.contextmanager
    def session(self, *, rw: bool = False) -> Iterator[int]:
        """Open a session of its own, closed whatever happens. Raises CkrError, NoSession."""
        try:
            handle = calls.open_session(self.table, self.slot, rw=rw)
        except CkrError as error:
            if error.name == "CKR_SESSION_COUNT":
                raise NoSession from error
            raise
        try:
            yield handle
        finally:
            with contextlib.suppress(CkrError):
                calls.close_session(self.table, handle)


@dataclass(frozen=True)
class Trial:
    """The result of a trial. works: it may be relied upon. seen: what happened, in words."""

    works: bool
    seen: str


@dataclass(frozen=True)
class GcmTrial(Trial):
    """The result of a trial of AES-GCM."""

    iv: GcmIv = "caller's"
    takes_changed: bool = False
    """Whether a ciphertext that was changed is decrypted: then the tag says nothing."""
    error: str = ""
    """The answer of the token, "CKR_DEVICE_ERROR", if that is why it does not work."""


@dataclass(frozen=True)
class HmacTrial(Trial):
    """The result of a trial of an HMAC."""

    empty: bool = False
    """Whether the empty message has a MAC."""
    longest: int = 0
    """Bytes of the longest message that was taken, of those tried."""


def gcm_params(iv: bytes, aad: bytes) -> c.GcmParams:
    """Return the parameters of AES-GCM. iv empty: the token is to choose it."""
    held = ctypes.create_string_buffer(iv, len(iv))
    made = c.GcmParams(ctypes.addressof(held) if iv else None, len(iv), len(iv) * 8, aad, len(aad), TAG * 8)
    made.held = held
    return made


def gcm(place: TrialPlace, key: int, iv_size: int) -> GcmTrial:
    """Try CKM_AES_GCM with a 128-bit tag: back and forth, and that a changed tag, IV or AAD is refused."""
    message = os.urandom(32)
    whose: GcmIv = "caller's"
    try:
        sealed, iv, whose = _seal(place, key, os.urandom(iv_size), message)
        if len(sealed) != len(message) + TAG:
            return GcmTrial(False, f"{len(sealed)} bytes came back for {len(message)}, not {len(message) + TAG}")
        if not any(iv):
            return GcmTrial(False, "an IV of zeros is wanted, and none of the token's own is written in its place")
        if _open(place, key, iv, _AAD, sealed) != message:
            return GcmTrial(False, "what was decrypted is not what was encrypted", whose)
    except CkrError as error:
        return GcmTrial(False, str(error), whose, error=error.name)
    for what, changed in (
        ("tag", (iv, _AAD, sealed[:-1] + bytes([sealed[-1] ^ 1]))),
        ("IV", (bytes([iv[0] ^ 1]) + iv[1:], _AAD, sealed)),
        ("additional data", (iv, b"qrobe", sealed)),
    ):
        with contextlib.suppress(CkrError):
            _open(place, key, *changed)
            return GcmTrial(False, f"a ciphertext with a changed {what} is accepted", whose, takes_changed=True)
    return GcmTrial(True, _SEEN[whose], whose)


_SEEN: Final[dict[GcmIv, str]] = {
    "caller's": "back and forth; changes are refused",
    "appended": f"the token chooses the IV itself, {APPENDED_IV} bytes behind the tag",
    "written": f"the token chooses the IV itself, {WRITTEN_IV} bytes in the place of those it is given",
}


def _seal(place: TrialPlace, key: int, iv: bytes, message: bytes) -> tuple[bytes, bytes, GcmIv]:
    """Encrypt. Returns the ciphertext with its tag, the IV, and whose it is."""
    refused: CkrError | None = None
    # An HSM that chooses the IV may refuse to be given one, or want zeros.
    for given in (iv, b"", bytes(WRITTEN_IV)):
        params = gcm_params(given, _AAD)
        try:
            with place.session() as session:
                sealed = calls.encrypt(place.table, session, key, c.CKM_AES_GCM, params, message)
        except CkrError as error:
            if refused is None and error.name != "CKR_MECHANISM_PARAM_INVALID":
                raise
            refused = refused or error
            continue
        if len(sealed) == len(message) + TAG + APPENDED_IV:
            return sealed[:-APPENDED_IV], sealed[-APPENDED_IV:], "appended"
        return sealed, params.held.raw, "caller's" if params.held.raw == iv else "written"
    raise refused or CkrError("CKR_MECHANISM_PARAM_INVALID", "C_EncryptInit")


def _open(place: TrialPlace, key: int, iv: bytes, aad: bytes, sealed: bytes) -> bytes:
    with place.session() as session:
        return calls.decrypt(place.table, session, key, c.CKM_AES_GCM, gcm_params(iv, aad), sealed)


def cbc(place: TrialPlace, key: int) -> Trial:
    """Try CKM_AES_CBC over whole blocks: back and forth, and that the IV matters."""
    return _block_mode(place, key, c.CKM_AES_CBC, os.urandom(16), os.urandom(48))


def ecb(place: TrialPlace, key: int) -> Trial:
    """Try CKM_AES_ECB over whole blocks: the bare cipher, of which CBC can be built (NIST SP 800-38A, 6.2)."""
    return _block_mode(place, key, c.CKM_AES_ECB, None, os.urandom(48))


def cbc_pad(place: TrialPlace, key: int) -> Trial:
    """Try CKM_AES_CBC_PAD over part of a block, and over whole ones."""
    for size in (5, 32):
        trial = _block_mode(place, key, c.CKM_AES_CBC_PAD, os.urandom(16), os.urandom(size), size // 16 * 16 + 16)
        if not trial.works:
            return Trial(False, f"{size} bytes: {trial.seen}")
    return trial


def _block_mode(place: TrialPlace, key: int, mechanism: int, iv: bytes | None, message: bytes, size: int = 0) -> Trial:
    try:
        with place.session() as session:
            sealed = calls.encrypt(place.table, session, key, mechanism, iv, message)
        if len(sealed) != (size or len(message)) or message in sealed:
            return Trial(False, f"{len(sealed)} bytes came back for {len(message)}, not {size or len(message)}")
        with place.session() as session:
            opened = calls.decrypt(place.table, session, key, mechanism, iv, sealed)
        if opened != message:
            return Trial(False, f"wrong bytes: {len(opened)} were decrypted, and not those that were encrypted")
        if iv is not None:
            with place.session() as session:
                other = calls.encrypt(place.table, session, key, mechanism, os.urandom(16), message)
            if other == sealed:
                return Trial(False, "the IV is ignored: two IVs give one ciphertext")
    except CkrError as error:
        return Trial(False, str(error))
    return Trial(True, "back and forth")


def hmac(place: TrialPlace, key: int, mechanism: int, size: int, most: int) -> HmacTrial:
    """Try an HMAC of `size` bytes: that it depends on the message, what it makes of none, and how long one may be.

    most: bytes of the longest message to try.
    """
    empty, longest = False, 0
    try:
        with place.session() as session:
            first = calls.sign(place.table, session, key, mechanism, b"message")
            again = calls.sign(place.table, session, key, mechanism, b"message")
            other = calls.sign(place.table, session, key, mechanism, b"massage")
        if len(first) != size or first != again or first == other:
            return HmacTrial(False, f"this is no HMAC: {len(first)} bytes, of {size} expected")
        with contextlib.suppress(CkrError), place.session() as session:
            empty = len(calls.sign(place.table, session, key, mechanism, b"")) == size
        for length in (1024, 4096, 16384, 65536):
            if length > most:
                break
            with place.session() as session:
                calls.sign(place.table, session, key, mechanism, bytes(length))
            longest = length
    except CkrError as error:
        if not longest:
            return HmacTrial(False, str(error), empty)
    nothing = "and the empty one too" if empty else "but not the empty one"
    return HmacTrial(True, f"messages of up to {longest} bytes, {nothing}", empty, longest)


def oaep(place: TrialPlace, public: int, private: int) -> Trial:
    """Try CKM_RSA_PKCS_OAEP with SHA-256 and MGF1 with SHA-256 (RFC 7518, 4.3): back and forth."""
    params = c.RsaOaepParams(c.CKM_SHA256, c.CKG_MGF1_SHA256, c.CKZ_DATA_SPECIFIED, None, 0)
    message = os.urandom(32)
    try:
        with place.session() as session:
            sealed = calls.encrypt(place.table, session, public, c.CKM_RSA_PKCS_OAEP, params, message)
        with place.session() as session:
            opened = calls.decrypt(place.table, session, private, c.CKM_RSA_PKCS_OAEP, params, sealed)
    except CkrError as error:
        return Trial(False, str(error))
    return Trial(True, "back and forth") if opened == message else Trial(False, "wrong bytes were decrypted")


def random(place: TrialPlace) -> Trial:
    """Try C_GenerateRandom: that it works, and that two draws differ."""
    try:
        with place.session() as session:
            first, second = (calls.random(place.table, session, 32) for _ in range(2))
    except CkrError as error:
        return Trial(False, str(error))
    if first == second or not any(first):
        return Trial(False, "it repeats itself")
    return Trial(True, "two draws of 32 bytes differ")
