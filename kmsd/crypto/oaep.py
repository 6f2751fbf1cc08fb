"""JWEs whose content key is encrypted with an RSA key of the token (RFC 7518, 4.3: RSA-OAEP-256) and whose content is
encrypted here, with AES-256-GCM.

Second best, for tokens that have no AES: the content key of each value is in this process for as long as that value is,
and whoever knows the public key can write what opens here. The private key stays on the token. Knows keys by CKA_ID.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from kmsd.crypto.gcm import MAY_BE_TAG, TagMismatch, not_opened, opened_wrongly
from kmsd.deadline import after, left
from kmsd.errors import InvalidRequest, Misconfigured
from kmsd.formats import jwe
from kmsd.formats.jwe import Jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import TAG_BYTES, KeyAmbiguousError, KeyMissingError, RsaNumbers, TokenSession
from kmsd.hsm.operation import Operation, operation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from kmsd.hsm.connection import Hsm

ENC: Final = "A256GCM"
IV_BYTES: Final = 12
_CONTENT_KEY_BYTES: Final = 32
RSA_BITS: Final = range(2048, 4097)
"""Below, a key is too weak (RFC 7518, 4.3); above, a JWE is longer than kube-apiserver takes."""
_EXPONENT_LEAST: Final = 65537
_UNUSABLE: Final = frozenset(
    {
        "CKR_ARGUMENTS_BAD",
        "CKR_MECHANISM_INVALID",
        "CKR_MECHANISM_PARAM_INVALID",
        "CKR_FUNCTION_NOT_SUPPORTED",
        "CKR_KEY_FUNCTION_NOT_PERMITTED",
        "CKR_KEY_SIZE_RANGE",
        "CKR_KEY_TYPE_INCONSISTENT",
    }
)
"""The answers of tokens that do not do this. SoftHSM 2.6.1 has OAEP with SHA-1 only, and calls SHA-256 a bad
argument."""


@operation(Operation.ENCRYPT_OAEP)
def encrypt(session: TokenSession, cka_id: bytes, header: bytes, plaintext: bytes) -> bytes:
    """Make a compact JWE. Runs on a thread of the token, which gives the content key and shows the public key: the
    public half needs no token."""
    numbers = _checked(session.rsa_numbers(cka_id))
    content_key = session.random(_CONTENT_KEY_BYTES)
    iv = session.iv(IV_BYTES)
    wrapped = _wrap(numbers, content_key)
    sealed = _aes_gcm(content_key).encrypt(iv, plaintext, header)
    return jwe.assemble(header, iv, sealed, TAG_BYTES, wrapped)


async def decrypt(hsm: Hsm, cka_id: bytes, sealed: Jwe, timeout: float) -> bytes:
    """Return the plaintext, if the tag fits. Raises TagMismatch if not, only when the token has just shown that it
    works.

    A content key that does not decrypt and a tag that does not fit look the same from outside (RFC 7516, 11.5).
    """
    check_shape(sealed)
    until = after(timeout)
    try:
        try:
            # A failure is not repeated by itself, and the token is not suspected: a TPM calls every failure the same,
            # and whoever writes to etcd could have it initialised anew all the time.
            return await hsm.submit(decrypt_here, cka_id, sealed, timeout=left(until), retry=False)
        except CkrError as error:
            if _may_be_data(error) or not (error.stale_session or error.lost):
                raise
        return await hsm.submit(decrypt_here, cka_id, sealed, timeout=left(until))
    except TagMismatch:
        await round_trip(hsm, cka_id, left(until))
        raise
    except CkrError as error:
        if not _may_be_data(error):
            raise hsm.explain(error) from error
        await round_trip(hsm, cka_id, left(until))
        raise TagMismatch from error
    except (KeyMissingError, KeyAmbiguousError) as error:
        raise hsm.explain(error) from error


def _may_be_data(error: CkrError) -> bool:
    return error.function == "C_Decrypt" and error.name in MAY_BE_TAG


def check_shape(sealed: Jwe) -> None:
    """Raise InvalidRequest for what cannot be right whatever the key is."""
    if sealed.alg != jwe.WRAPPED or sealed.enc != ENC:
        raise InvalidRequest(
            "the ciphertext names an RSA key, and holds no content key that is encrypted with one", jwe.NOT_OURS
        )
    if len(sealed.iv) != IV_BYTES or len(sealed.tag) != TAG_BYTES:
        raise InvalidRequest(
            f"the IV must have {IV_BYTES} bytes and the tag {TAG_BYTES}, got {len(sealed.iv)} and {len(sealed.tag)}",
            jwe.NOT_OURS,
        )
    if len(sealed.encrypted_key) * 8 not in RSA_BITS:
        raise InvalidRequest("the size of the encrypted key is that of no RSA key that kmsd uses", jwe.NOT_OURS)


@operation(Operation.DECRYPT_OAEP)
def decrypt_here(session: TokenSession, cka_id: bytes, sealed: Jwe) -> bytes:
    """Do the work of `decrypt` on a thread of the token, after `check_shape`."""
    from cryptography.exceptions import InvalidTag

    if len(sealed.encrypted_key) != _checked(session.rsa_numbers(cka_id)).size:
        raise TagMismatch
    content_key = session.decrypt_oaep(cka_id, sealed.encrypted_key)
    if len(content_key) != _CONTENT_KEY_BYTES:
        raise TagMismatch
    try:
        return _aes_gcm(content_key).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, sealed.header)
    except InvalidTag:
        raise TagMismatch from None


async def round_trip(hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
    """Encrypt and decrypt random bytes with this key; return the seconds that each took. Raises KmsdError."""
    return await hsm.run(round_trip_here, cka_id, timeout=timeout)


@operation(Operation.PROBE_OAEP)
def round_trip_here(session: TokenSession, cka_id: bytes) -> tuple[float, float]:
    """Make one `round_trip` on a thread of the token. Raises CkrError, WrongResult."""
    plaintext = session.iv(16)
    began = perf_counter()
    compact = encrypt(session, cka_id, jwe.header("kmsd round trip", ENC, alg=jwe.WRAPPED), plaintext)
    encrypted = perf_counter()
    try:
        opened = decrypt_here(session, cka_id, jwe.parse(compact))
    except TagMismatch:
        raise not_opened() from None
    if opened != plaintext:
        raise opened_wrongly()
    return encrypted - began, perf_counter() - encrypted


@operation(Operation.PICK_OAEP)
def probe(session: TokenSession, cka_id: bytes) -> None:
    """Raise Misconfigured if the token does not do this with the key, and what the token says if it fails otherwise."""
    try:
        round_trip_here(session, cka_id)
    except CkrError as error:
        if error.name not in _UNUSABLE:
            raise
        raise Misconfigured(
            f"the token does not decrypt RSA-OAEP with SHA-256 with this key ({error.function}: {error.name})",
            "use a token that does, or one with AES: SoftHSM 2.6 has OAEP with SHA-1 only",
        ) from error


def _checked(numbers: RsaNumbers) -> RsaNumbers:
    bits = numbers.modulus.bit_length()
    if bits not in RSA_BITS or numbers.exponent < _EXPONENT_LEAST or numbers.exponent % 2 == 0:
        raise Misconfigured(
            f"an RSA key of {bits} bits with the exponent {numbers.exponent} is not used",
            f"make one of {RSA_BITS[0]} to {RSA_BITS[-1]} bits with the exponent {_EXPONENT_LEAST}",
        )
    return numbers


# The library costs 8 MB of memory, so only a daemon with an RSA key loads it.


def _aes_gcm(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _wrap(numbers: RsaNumbers, content_key: bytes) -> bytes:
    """Encrypt the content key by RSAES-OAEP with SHA-256 and MGF1 with SHA-256 (RFC 8017, 7.1.1)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    sha256 = hashes.SHA256()
    oaep = padding.OAEP(padding.MGF1(sha256), sha256, None)
    return rsa.RSAPublicNumbers(numbers.exponent, numbers.modulus).public_key().encrypt(content_key, oaep)
