"""The differences between vendors, in one table; each row with its evidence. Pure: looks at names, calls nothing.

A row is chosen by the operator (`--provider`) or by what the module and the token say of themselves. What can be found
out by trying is found out by trying (`kmsd.hsm.doctor`); the table holds what cannot be tried safely, or must be known
before anything is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Final, Literal

Provider = Literal["auto", "softhsm", "tpm2", "p11-kit", "luna", "cloudhsm", "opencryptoki", "generic"]
"""The values that `--provider` takes. `p11` of earlier configurations means auto; `dpod` means luna."""
Foreign = Literal["at once", "after initialising anew", "unknown"]
Generator = Literal["", "tpm2_ptool"]
GcmIv = Literal["caller's", "appended", "written"]
"""The side whose IV CKM_AES_GCM encrypts with. "appended": the token's own, 16 bytes, which it puts behind the tag; it
may want to be given none. "written": the token's own, which it writes in the place of the 12 zero bytes it is given."""


@dataclass(frozen=True)
class Quirks:
    """The ways in which one kind of token differs from what PKCS#11 lets one expect.

    libraries: beginnings of the module's file name. manufacturers: beginnings of the manufacturer in CK_TOKEN_INFO.
    """

    name: str
    title: str
    libraries: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Places where distributions and vendors put the module; the first that exists is taken."""
    install: str = ""
    """The way to get the module, as a command for Debian and Ubuntu, or where to look."""
    relay: bool = False
    """Whether the module speaks for a token elsewhere, whose own row counts as well."""
    serial: bool = False
    """Whether the device does one thing at a time, so that one worker is as fast as many: the module's locks are not
    put to the test."""
    foreign_changes: Foreign = "at once"
    """The time at which keys are seen that other programs made, relabelled or destroyed meanwhile."""
    misses_objects: bool = False
    """Whether, of two processes that make a key at the same moment, each may never see the other's until the module is
    initialised anew."""
    can_generate: bool = True
    """Whether C_GenerateKey makes AES and HMAC keys."""
    generates_through: Generator = ""
    """The program that makes keys where PKCS#11 does not. The module must be finalised around it."""
    gcm_iv: GcmIv = "caller's"
    """The side that is expected to choose the IV; what is found out by trying counts more."""
    cbc_pad_trusted: bool = True
    """Whether CKM_AES_CBC_PAD gives back what was encrypted. kmsd pads by itself in any case."""
    cbc_from_ecb: bool = False
    """Whether, where CKM_AES_CBC is missing, CBC may be built of CKM_AES_ECB, block by block."""
    hmac_longest: int | None = None
    """Bytes of the longest message of an HMAC; None: no bound is known."""
    keys_per_login: int | None = None
    """Distinct keys that one login may use where nothing manages the device's memory; None: no bound."""
    pin_tries: int | None = None
    """Wrong PINs until the token locks; None: no bound is known."""
    same_id_replaces: bool = False
    """Whether a key made with the CKA_ID of another takes the place of that one, which is lost."""
    random_is_proof: bool = True
    """Whether C_GenerateRandom fails while the token is of no use. Else only an operation with a key tells."""
    evidence: tuple[str, ...] = ()
    """The programs that were run, with versions; or what was read, where no device was at hand."""


def _debian_and_others(file: str, *more: str) -> tuple[str, ...]:
    """Return where Debian, Ubuntu, Fedora, Arch, Alpine and local builds put the PKCS#11 module `file`."""
    folders = (
        "/usr/lib/x86_64-linux-gnu/pkcs11",
        "/usr/lib/aarch64-linux-gnu/pkcs11",
        "/usr/lib64/pkcs11",
        "/usr/lib/pkcs11",
        "/usr/local/lib/pkcs11",
    )
    return (*more, *(f"{folder}/{file}" for folder in folders))


SOFTHSM: Final = Quirks(
    "softhsm",
    "SoftHSM 2",
    libraries=("libsofthsm",),
    manufacturers=("SoftHSM",),
    paths=(
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    ),
    install="apt-get install softhsm2",
    misses_objects=True,
    evidence=(
        "SoftHSM 2.6.1 (Debian 12): GCM with IVs of 12 and 16 bytes, CBC, CBC_PAD, HMAC to 64 KiB and of nothing work",
        "SoftHSM 2.6.1: a key made by another process is seen at once; a wrong GCM tag is CKR_GENERAL_ERROR",
        "SoftHSM 2.6.1: but not if two make one at once: each takes the other's change of the generation for its own",
        "SoftHSM 2.6.1: RSA-OAEP with SHA-256 is CKR_ARGUMENTS_BAD, it knows SHA-1 only",
        "SoftHSM 2.6.1: without CKF_OS_LOCKING_OK, two threads crash it",
    ),
)

TPM2: Final = Quirks(
    "tpm2",
    "TPM 2.0 with tpm2-pkcs11",
    libraries=("libtpm2_pkcs11",),
    # The module passes on what the TPM says: there are too many makers to list.
    paths=_debian_and_others("libtpm2_pkcs11.so"),
    install="apt-get install libtpm2-pkcs11-1 libtpm2-pkcs11-tools",
    foreign_changes="after initialising anew",
    can_generate=False,
    generates_through="tpm2_ptool",
    cbc_pad_trusted=False,
    hmac_longest=4096,
    keys_per_login=2,
    serial=True,
    pin_tries=3,
    random_is_proof=False,
    evidence=(
        "tpm2-pkcs11 1.9.0 on swtpm 0.7.1 (Debian 12): no GCM; CBC and HMAC with SHA-256 work, 4.4 ms and 3.4 ms each",
        "tpm2-pkcs11 1.9.0: C_GenerateKey is CKR_FUNCTION_NOT_SUPPORTED; tpm2_ptool addkey makes AES and HMAC keys",
        "tpm2-pkcs11 1.9.0: CBC_PAD of 32 bytes decrypts to CKR_GENERAL_ERROR or to wrong bytes",
        "tpm2-pkcs11 1.9.0: an HMAC of 4096 bytes works, one of 16 KiB does not",
        "tpm2-pkcs11 1.9.0: a key made or destroyed by another process is seen after C_Finalize and C_Initialize only",
        "tpm2-pkcs11 1.9.0 without a resource manager: a third key in one login is CKR_GENERAL_ERROR, of "
        "C_EncryptInit, C_Encrypt or C_Sign; the first two go on",
        "tpm2-pkcs11 1.9.0 after the TPM was reset, without a resource manager: C_GenerateRandom works, every key is "
        "CKR_GENERAL_ERROR until C_Finalize and C_Initialize",
        "tpm2-pkcs11 1.9.0 without a resource manager: after kill -9 nobody can log in until tpm2_flushcontext -t, "
        "then -l",
        "tpm2-pkcs11 1.9.0: once in some hundred runs kmsd died in the module's encrypt_op_data_free, with several "
        "threads in the module",
        "a TPM locks after 3 wrong PINs for 1000 s unless set up otherwise, and right ones do not reset the count",
    ),
)

P11KIT: Final = Quirks(
    "p11-kit",
    "p11-kit's client or proxy",
    libraries=("p11-kit-client", "p11-kit-proxy", "libp11-kit"),
    paths=_debian_and_others("p11-kit-client.so"),
    install="apt-get install p11-kit-modules",
    relay=True,
    cbc_from_ecb=True,
    evidence=(
        "p11-kit 0.24.1 (Debian 12), SoftHSM 2.6.1 behind: a mechanism with a parameter that it does not know is left "
        "out, so neither GCM nor CBC; ECB, HMAC, key generation and relabelling work, 120 us each",
        "p11-kit 0.24.1: C_GetFunctionList makes a new instance each time, and no other function is exported",
        "p11-kit 0.24.1: with the server away C_Initialize succeeds and there are no slots",
        "p11-kit 0.24.1: a key made by another process on the token behind is seen at once",
        "p11-kit 0.25.5 at both ends: GCM works too, with IVs of 12 and 16 bytes, 68 us each",
        "p11-kit 0.25.5 at kmsd, 0.24.1 at the server: GCM is listed, but CKR_OBJECT_HANDLE_INVALID in use; CBC works",
        "tests/chaos, SoftHSM 2.6.1 made to list GCM and to refuse it: found out at the login, and a pair serves",
    ),
)

LUNA: Final = Quirks(
    "luna",
    "Thales Luna and Data Protection on Demand",
    libraries=("libCryptoki2",),
    manufacturers=("SafeNet", "Thales", "Gemalto"),
    paths=(
        "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
        "/usr/lib/libCryptoki2_64.so",
        "/opt/safenet/lunaclient/libs/64/libCryptoki2.so",
    ),
    install="install the vendor's client (Luna HSM Client), or name its libCryptoki2_64.so with --p11-lib",
    gcm_iv="appended",
    pin_tries=10,
    evidence=(
        "no device was at hand; the vendor's description of CKM_AES_GCM: in FIPS mode the HSM generates the IV and "
        "puts its 16 bytes behind the tag; without FIPS mode the caller's IV is used",
        "k8s-kms-plugin, providers luna and dpod: no IV for C_EncryptInit, the IV found for C_DecryptInit",
        "tests/chaos, SoftHSM 2.6.1 made to do the same: kmsd's GCM works",
    ),
)

CLOUDHSM: Final = Quirks(
    "cloudhsm",
    "AWS CloudHSM",
    libraries=("libcloudhsm_pkcs11",),
    paths=("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",),
    install="install AWS CloudHSM's PKCS#11 library, or name its libcloudhsm_pkcs11.so with --p11-lib",
    gcm_iv="written",
    evidence=(
        "no device was at hand; the vendor's description of CKM_AES_GCM: the HSM takes an IV of 12 zero bytes, and "
        "writes the one that it has generated into the caller's CK_GCM_PARAMS",
        "tests/chaos, SoftHSM 2.6.1 made to do the same, in C_EncryptInit or in C_Encrypt: kmsd's GCM works",
    ),
)

OPENCRYPTOKI: Final = Quirks(
    "opencryptoki",
    "openCryptoki",
    libraries=("libopencryptoki", "PKCS11_API"),
    manufacturers=("IBM Corp.",),
    paths=_debian_and_others(
        "libopencryptoki.so", "/usr/lib64/opencryptoki/libopencryptoki.so", "/usr/lib/opencryptoki/libopencryptoki.so"
    ),
    install="apt-get install opencryptoki, add kmsd to the group pkcs11, start pkcsslotd",
    pin_tries=3,
    evidence=(
        "openCryptoki 3.8.1 (Debian 12), software token: no GCM; CBC, CBC_PAD, HMAC to 64 KiB and of nothing, and "
        "RSA-OAEP with SHA-256 work, 5 to 12 us each",
        "openCryptoki 3.8.1: key generation and relabelling work; a PIN has 4 to 8 characters",
        "openCryptoki 3.8.1: where a process is killed that makes a key, another may show the next one twice for good",
        "openCryptoki locks the user PIN after 3 wrong ones (its documentation)",
    ),
)

GENERIC: Final = Quirks(
    "generic",
    "any PKCS#11 module",
    foreign_changes="unknown",
    evidence=("nothing is known: what can be tried is tried, and nothing else is relied upon",),
)

NSS: Final = Quirks(
    "generic",
    "the software token of NSS",
    libraries=("libsoftokn3",),
    manufacturers=("Mozilla",),
    same_id_replaces=True,
    foreign_changes="unknown",
    evidence=("NSS 3.87: a second secret key with the same CKA_ID replaces the first; GCM decrypts only",),
)

TABLE: Final = (SOFTHSM, TPM2, P11KIT, LUNA, CLOUDHSM, OPENCRYPTOKI, NSS)
_BY_NAME: Final = {row.name: row for row in (*reversed(TABLE), GENERIC)}
_OTHER_NAMES: Final = {"p11": "auto", "dpod": "luna"}


def by_module(path: str) -> Quirks:
    """Return the row of a module, by its file name; GENERIC if there is none."""
    name = PurePath(path).name
    return next((row for row in TABLE if name.startswith(row.libraries)), GENERIC)


def by_token(manufacturer: str) -> Quirks:
    """Return the row of a token, by what CK_TOKEN_INFO says; GENERIC if there is none."""
    return next((row for row in TABLE if row.manufacturers and manufacturer.startswith(row.manufacturers)), GENERIC)


def choose(provider: str, path: str, manufacturer: str = "") -> Quirks:
    """Return the row that counts.

    provider: as configured; auto: by names. path: of the module, resolved: links have other names. manufacturer: of the
    token, empty while it is not known yet. Raises ValueError for an unknown provider.
    """
    wanted = _OTHER_NAMES.get(provider, provider)
    if wanted == "auto":
        row = by_module(path)
        if row is GENERIC and manufacturer:
            row = by_token(manufacturer)
    elif wanted in _BY_NAME:
        row = _BY_NAME[wanted]
    else:
        raise ValueError(f"unknown provider {provider!r}: one of auto, {', '.join(sorted(_BY_NAME))}")
    return _relayed(row, by_token(manufacturer)) if row.relay and manufacturer else row


def _relayed(relay: Quirks, behind: Quirks) -> Quirks:
    """Return a relay's row with what the token behind it brings along. Programs that make keys are not where kmsd
    is."""
    if behind is GENERIC:
        return relay
    return replace(
        relay,
        title=f"{relay.title}, {behind.title} behind",
        foreign_changes=behind.foreign_changes,
        can_generate=behind.can_generate,
        gcm_iv=behind.gcm_iv,
        cbc_pad_trusted=behind.cbc_pad_trusted,
        hmac_longest=behind.hmac_longest,
        pin_tries=behind.pin_tries,
        random_is_proof=behind.random_is_proof,
        same_id_replaces=behind.same_id_replaces,
    )


def find_module(provider: str, exists: Callable[[str], bool] = lambda path: Path(path).exists()) -> str | None:
    """Return the path of a provider's module where distributions put it; None if it is in none of those places."""
    row = _BY_NAME.get(_OTHER_NAMES.get(provider, provider), GENERIC)
    return next((path for path in row.paths if exists(path)), None)
