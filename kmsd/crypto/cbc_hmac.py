"""JWEs by encrypt-then-MAC with two keys on the token, AES-CBC and HMAC (RFC 7518, 5.2).

They serve tokens without AES-GCM. The keys are two objects instead of the halves of one, and the padding is made and
taken away here, because a token is known whose own padding returns wrong bytes. The tag is compared before anything is
decrypted. Knows keys by CKA_ID; which two belong together, the keyring says.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

from kmsd.crypto.gcm import TagMismatch, not_opened, opened_wrongly
from kmsd.errors import InvalidRequest, Misconfigured
from kmsd.formats import jwe
from kmsd.formats.jwe import Jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import BLOCK_BYTES, Hash, KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.operation import Operation, operation

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm

_UNUSABLE: Final = frozenset(
    {
        "CKR_MECHANISM_INVALID",
        "CKR_MECHANISM_PARAM_INVALID",
        "CKR_FUNCTION_NOT_SUPPORTED",
        "CKR_KEY_SIZE_RANGE",
        "CKR_KEY_TYPE_INCONSISTENT",
        "CKR_KEY_FUNCTION_NOT_PERMITTED",
    }
)
"""The answers of tokens where a key and a mechanism do not fit each other."""

_TOO_LONG: Final = frozenset({"CKR_DATA_LEN_RANGE", "CKR_BUFFER_TOO_SMALL"})
"""The answers of tokens that cannot make an HMAC over so much; the second is tpm2-pkcs11's, beyond 4096 bytes."""


@dataclass(frozen=True)
class Suite:
    """A value of `enc` and what it asks for. aes_bits: of the AES key, exactly. mac_bits: of the HMAC key, at least."""

    enc: str
    aes_bits: int
    mac_bits: int
    hash: Hash

    @property
    def tag(self) -> int:
        """The bytes of the HMAC that are kept."""
        return jwe.CBC_TAGS[self.enc]

    @property
    def mechanism(self) -> str:
        return f"CKM_{self.hash}_HMAC"


SUITES: Final = {
    suite.enc: suite
    for suite in (
        Suite("A256CBC-HS512", 256, 256, "SHA512"),
        Suite("A256CBC-HS256", 256, 256, "SHA256"),
        Suite("A128CBC-HS256", 128, 128, "SHA256"),
    )
}
"""The suites, the strongest first. A256CBC-HS256 is a private name: AES-256 and the whole of HMAC-SHA-256."""


def suitable(mechanisms: Collection[str], aes_bits: int, mac_bits: int) -> tuple[str, ...]:
    """Return the encs that this pair of keys could write with, strongest first; `pick` tries them.

    mechanisms: what the token lists, as "CKM_AES_CBC". bits: sizes of the keys; mac_bits 0: the token does not tell.
    Raises Misconfigured with the reason if there is none.
    """
    if "CKM_AES_CBC" not in mechanisms:
        raise Misconfigured("the token can do neither AES-GCM nor AES-CBC", "use a token with AES, or an RSA key")
    sized = [suite for suite in SUITES.values() if suite.aes_bits == aes_bits]
    if not sized:
        raise Misconfigured(
            f"there is no JWE encryption with AES-{aes_bits} in CBC mode"
            if aes_bits
            else "the token does not tell the size of the AES key",
            "make a pair with AES-256: kmsctl keygen LABEL --type pair",
        )
    strong = [suite for suite in sized if not 0 < mac_bits < suite.mac_bits]
    if not strong:
        raise Misconfigured(
            f"the HMAC key has {mac_bits} bits, AES-{aes_bits} needs at least {sized[0].mac_bits} beside it",
            "make another pair: kmsctl keygen LABEL --type pair",
        )
    listed = tuple(suite.enc for suite in strong if suite.mechanism in mechanisms)
    if not listed:
        raise Misconfigured(
            f"the token does not list {' or '.join(sorted({suite.mechanism for suite in strong}))}",
            "use a token with HMAC and SHA-2: AES-CBC alone would let anybody alter what is stored",
        )
    return listed


@operation(Operation.PICK_CBC_HMAC)
def pick(session: TokenSession, enc_cka_id: bytes, mac_cka_id: bytes, encs: tuple[str, ...]) -> str:
    """Return the first of these encs that works with this pair: tokens list mechanisms that they refuse to a key.

    Raises Misconfigured if none does, and what the token says if it fails otherwise.
    """
    refused = ""
    for enc in encs:
        try:
            round_trip_here(session, enc_cka_id, mac_cka_id, enc)
        except CkrError as error:
            if error.name not in _UNUSABLE:
                raise
            refused = f"{error.function}: {error.name}"
        else:
            return enc
    raise Misconfigured(
        f"the token refuses this pair of keys {' and '.join(encs)} ({refused})",
        "the keys' attributes or sizes forbid it: make another pair, kmsctl keygen LABEL --type pair",
    )


async def round_trip(hsm: Hsm, enc_cka_id: bytes, mac_cka_id: bytes, enc: str, timeout: float) -> tuple[float, float]:
    """Encrypt and decrypt random bytes with this pair; return the seconds that each took. Raises KmsdError if it fails,
    among them WrongResult if the token does not open what it has just encrypted."""
    return await hsm.run(round_trip_here, enc_cka_id, mac_cka_id, enc, timeout=timeout)


@operation(Operation.PROBE_CBC_HMAC)
def round_trip_here(session: TokenSession, enc_cka_id: bytes, mac_cka_id: bytes, enc: str) -> tuple[float, float]:
    """Make one `round_trip` on a thread of the token. Raises CkrError, WrongResult."""
    plaintext = session.iv(BLOCK_BYTES)
    header = jwe.header("kmsd round trip", enc)
    began = perf_counter()
    compact = encrypt(session, enc_cka_id, mac_cka_id, enc, header, plaintext)
    encrypted = perf_counter()
    try:
        opened = decrypt_here(session, enc_cka_id, mac_cka_id, jwe.parse(compact))
    except TagMismatch:
        raise not_opened() from None
    if opened != plaintext:
        raise opened_wrongly()
    return encrypted - began, perf_counter() - encrypted


@operation(Operation.ENCRYPT_CBC_HMAC)
def encrypt(
    session: TokenSession,
    enc_cka_id: bytes,
    mac_cka_id: bytes,
    enc: str,
    header: bytes,
    plaintext: bytes,
    mac_limit: int = 0,
) -> bytes:
    """Make a compact JWE (RFC 7518, 5.2.2.1). Runs on a thread of the token.

    header: encoded first segment, which names `enc`. mac_limit: most bytes that the token can make an HMAC over; 0:
    none known. Raises InvalidRequest beyond it.
    """
    suite = SUITES[enc]
    _check_limit(len(header), padded_size(len(plaintext)), mac_limit)
    iv = session.iv(BLOCK_BYTES)
    ciphertext = session.encrypt_cbc(enc_cka_id, iv, pad(plaintext))
    tag = _tag(session, mac_cka_id, suite, header, iv, ciphertext)
    return jwe.assemble(header, iv, ciphertext + tag, suite.tag)


async def decrypt(
    hsm: Hsm, enc_cka_id: bytes, mac_cka_id: bytes, sealed: Jwe, timeout: float, *, mac_limit: int = 0
) -> bytes:
    """Return the plaintext, if the tag fits (RFC 7518, 5.2.2.2). Raises TagMismatch if it does not, and KmsdError."""
    check_shape(sealed, mac_limit)
    try:
        return await hsm.submit(decrypt_here, enc_cka_id, mac_cka_id, sealed, timeout=timeout)
    except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
        raise hsm.explain(error) from error


def check_shape(sealed: Jwe, mac_limit: int = 0) -> None:
    """Raise InvalidRequest for what cannot be right whatever the keys are. mac_limit: as for `encrypt`."""
    suite = SUITES.get(sealed.enc)
    if suite is None or sealed.alg != jwe.DIRECT:
        raise InvalidRequest("the ciphertext names a key for AES-CBC, and is not in that mode", jwe.NOT_OURS)
    if len(sealed.tag) != suite.tag:
        raise InvalidRequest(
            f"the authentication tag has {len(sealed.tag)} bytes where {suite.tag} are needed", jwe.NOT_OURS
        )
    if len(sealed.iv) != BLOCK_BYTES:
        raise InvalidRequest(f"the IV has {len(sealed.iv)} bytes where {BLOCK_BYTES} are needed", jwe.NOT_OURS)
    if not sealed.ciphertext or len(sealed.ciphertext) % BLOCK_BYTES:
        raise InvalidRequest("the ciphertext is not a number of whole blocks", jwe.NOT_OURS)
    _check_limit(len(sealed.header), len(sealed.ciphertext), mac_limit)


@operation(Operation.DECRYPT_CBC_HMAC)
def decrypt_here(session: TokenSession, enc_cka_id: bytes, mac_cka_id: bytes, sealed: Jwe) -> bytes:
    """Do the work of `decrypt` on a thread of the token, after `check_shape`."""
    suite = SUITES[sealed.enc]
    tag = _tag(session, mac_cka_id, suite, sealed.header, sealed.iv, sealed.ciphertext)
    if not hmac.compare_digest(tag, sealed.tag):
        raise TagMismatch
    plaintext = unpad(session.decrypt_cbc(enc_cka_id, sealed.iv, sealed.ciphertext))
    if plaintext is None:
        # The tag fits but the padding does not: the AES key has changed, or is not the one that wrote.
        raise TagMismatch
    return plaintext


def _tag(session: TokenSession, mac_cka_id: bytes, suite: Suite, aad: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Compute the tag (RFC 7518, 5.2.2.1 steps 4 and 5): the HMAC over AAD, IV, ciphertext and AL, cut to the size of
    the tag."""
    data = mac_input(aad, iv, ciphertext)
    try:
        return session.hmac(mac_cka_id, suite.hash, data)[: suite.tag]
    except CkrError as error:
        if error.function == "C_Sign" and error.name in _TOO_LONG:
            raise _too_long(len(data), "") from error
        raise


def mac_input(aad: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """Return AAD, IV, ciphertext and AL, the number of bits in the AAD as a 64-bit big-endian number."""
    return b"%b%b%b%b" % (aad, iv, ciphertext, (len(aad) * 8).to_bytes(8, "big"))


def _check_limit(aad: int, ciphertext: int, limit: int) -> None:
    size = aad + BLOCK_BYTES + ciphertext + 8
    if 0 < limit < size:
        raise _too_long(size, f" ({limit})")


def _too_long(size: int, limit: str) -> InvalidRequest:
    return InvalidRequest(
        f"{size} bytes are to be authenticated, more than this token takes at once{limit}",
        "kube-apiserver's data keys are far smaller: encrypt those, or use a token with AES-GCM",
    )


def padded_size(size: int) -> int:
    """Return how many bytes a plaintext of this size has once it is padded."""
    return size + BLOCK_BYTES - size % BLOCK_BYTES


def pad(plaintext: bytes) -> bytes:
    """Pad to whole blocks by PKCS#7 (RFC 5652, 6.3): 1 to 16 bytes more, each of which says how many."""
    count = BLOCK_BYTES - len(plaintext) % BLOCK_BYTES
    return plaintext + bytes([count]) * count


def unpad(padded: bytes) -> bytes | None:
    """Undo `pad`; None if the bytes were not padded so."""
    count = padded[-1] if padded else 0
    if not 1 <= count <= BLOCK_BYTES or len(padded) % BLOCK_BYTES or padded[-count:] != bytes([count]) * count:
        return None
    return padded[:-count]
