"""What differs from vendor to vendor, in one table; each row with its evidence. Pure: looks at names, calls nothing.

A row is chosen by the operator (`--provider`) or by what the module and the token say of themselves. What can be found
out by trying is found out by trying (`kmsd.hsm.probe`); the table holds what cannot be tried safely, or what must be
known before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Foreign = Literal["at once", "after initialising anew", "unknown"]
Generator = Literal["", "tpm2_ptool"]
GcmIv = Literal["caller", "appended"]


@dataclass(frozen=True)
class Quirks:
    """How one kind of token differs from what PKCS#11 lets one expect.

    name: as `--provider` takes it. libraries: file names of the module, without version numbers at the end.
    manufacturers, models: beginnings of what CK_TOKEN_INFO says; both must fit, an empty tuple fits all.
    """

    name: str
    title: str
    libraries: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Where distributions and vendors put the module, the first that exists is taken."""
    relay: bool = False
    """The module speaks for another one, elsewhere: the token's own row counts as well."""
    os_locking: bool = True
    """C_Initialize takes CKF_OS_LOCKING_OK, and many threads may then be inside the module."""
    foreign_changes: Foreign = "at once"
    """When keys are seen that other programs made, relabelled or destroyed meanwhile."""
    can_generate: bool = True
    """C_GenerateKey makes AES and HMAC keys."""
    generates_through: Generator = ""
    """The program that makes keys where PKCS#11 does not; the module must be finalised meanwhile."""
    gcm_iv: GcmIv = "caller"
    """appended: the token may choose the IV itself, 16 bytes put behind the tag."""
    cbc_pad_trusted: bool = True
    """CKM_AES_CBC_PAD gives back what was encrypted. kmsd pads by itself in any case."""
    cbc_from_ecb: bool = False
    """Where CKM_AES_CBC is missing, CKM_AES_ECB may be there, of which CBC can be built block by block."""
    hmac_longest: int | None = None
    """Bytes of the longest message of an HMAC; None: no bound is known."""
    keys_per_login: int | None = None
    """Distinct keys that one login may use; None: as many as there are."""
    sessions: int | None = None
    """Sessions worth opening at most; None: as configured."""
    pin_tries: int | None = None
    """Wrong PINs until the token locks; None: no bound is known."""
    same_id_replaces: bool = False
    """A second key with the CKA_ID of another takes its place, and the first is lost."""
    heals_by_itself: bool = False
    """After a loss the token is found again without initialising the module anew."""
    wrong_tag: tuple[str, ...] = ("CKR_ENCRYPTED_DATA_INVALID", "CKR_AEAD_DECRYPT_FAILED")
    """What C_Decrypt answers to a GCM tag that does not fit."""
    environment: tuple[str, ...] = ()
    """Variables that the module reads, in the order in which they matter."""
    notes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """What was run, with versions; or what was read, where no device was at hand."""


def _distributions(file: str) -> tuple[str, ...]:
    """Where Debian, Ubuntu, Fedora, Arch, Alpine and a local build put a PKCS#11 module."""
    folders = (
        "/usr/lib/x86_64-linux-gnu/pkcs11",
        "/usr/lib/aarch64-linux-gnu/pkcs11",
        "/usr/lib64/pkcs11",
        "/usr/lib/pkcs11",
        "/usr/local/lib/pkcs11",
    )
    return tuple(f"{folder}/{file}" for folder in folders)


GENERIC: Final = Quirks(
    "generic",
    "any PKCS#11 module",
    foreign_changes="unknown",
    evidence=("nothing is known: what can be tried is tried, and nothing else is relied upon",),
)

TABLE: Final[tuple[Quirks, ...]] = ()
