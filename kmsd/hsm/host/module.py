"""Loading a PKCS#11 module so that many threads may call it, and looking at its slots.

A module is loaded once per process and stays; it can be finalised and initialised again, which is how
most of them recover a lost token. Knows nothing of logins and keys.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.errors import Misconfigured, Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import calls
from kmsd.hsm.host.cryptoki import (
    CKM_AES_CBC,
    CKM_AES_ECB,
    CKM_AES_GCM,
    CKM_SHA256_HMAC,
    CKM_SHA512_HMAC,
    Cryptoki,
)
from kmsd.hsm.host.function_list import FunctionTable
from kmsd.hsm.host.generator import Generator
from kmsd.hsm.vendors.quirks import GcmIv

SOFTHSM_MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
"""The places where Debian, Ubuntu, Fedora, a local build and Homebrew put it."""

_SERVING: Final = {
    CKM_AES_GCM: "CKM_AES_GCM",
    CKM_AES_CBC: "CKM_AES_CBC",
    CKM_AES_ECB: "CKM_AES_ECB",
    CKM_SHA256_HMAC: "CKM_SHA256_HMAC",
    CKM_SHA512_HMAC: "CKM_SHA512_HMAC",
}


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


class Module:
    """A loaded module. Make it with `load`, which knows the modules of this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.cryptoki = Cryptoki(path)
        self.multithreaded = self.cryptoki.initialize()
        self.cbc_from_ecb = False
        """Whether sessions build AES-CBC of single blocks; whoever opens them has looked at what the token lists."""
        self.trusted_public: frozenset[bytes] = frozenset()
        """CKA_IDs of keys that are used although their objects are public."""
        self.with_login = False
        """Whether somebody has to be logged in for keys to be seen."""
        self.gcm_iv: dict[int, GcmIv] = {}
        """The side that chooses the IVs of AES-GCM, by slot; where nothing is said, the caller."""
        self.generators: dict[int, Generator] = {}
        """Generators by slot; they outlast logins, for a generator that begins anew may give again what it gave
        before."""
        self.used: dict[int, dict[tuple[bytes, str], None]] = {}
        """The keys, by slot, that sessions have looked up to use them since the login, by CKA_ID and kind, in order."""
        self._initialized = True

    @property
    def initialized(self) -> bool:
        return self._initialized

    def initialize(self) -> None:
        """Call C_Initialize after `finalize`. Does nothing to an initialised module."""
        if not self._initialized:
            try:
                self.multithreaded = self.cryptoki.initialize()
            except CkrError as error:
                if error.name != "CKR_CRYPTOKI_ALREADY_INITIALIZED":
                    raise
                # The last C_Finalize failed, as with a device that was gone by then.
                self.cryptoki.finalize()
                self.multithreaded = self.cryptoki.initialize()
            self._initialized = True

    def finalize(self) -> None:
        """Call C_Finalize. The caller has made sure that no thread is inside the module (it would crash)."""
        if self._initialized:
            self._initialized = False
            self.cryptoki.finalize()

    def info(self) -> calls.LibraryInfo:
        """Return what the module says of itself. Raises CkrError."""
        return calls.library_info(self.cryptoki.table)

    def slots(self) -> list[SlotView]:
        """Return all slots, and the tokens in them. Raises CkrError."""
        table = self.cryptoki.table
        return [self._slot_view(table, slot) for slot in calls.slot_ids(table)]

    def _slot_view(self, table: FunctionTable, slot: int) -> SlotView:
        view = sessions = None
        try:
            info = calls.slot_info(table, slot)
        except CkrError as error:
            # One slot that is broken takes no other with it.
            info = calls.SlotInfo(f"broken ({error})", "", token_present=False)
        with contextlib.suppress(CkrError):
            token = calls.token_info(table, slot)
            view = TokenView(token.label, token.serial, token.model, token.manufacturer, token.flags)
            sessions = SessionCounts(
                token.open_sessions, token.max_sessions, token.open_rw_sessions, token.max_rw_sessions
            )
        return SlotView(slot, info.description, info.manufacturer, view, self.path, sessions)

    def serving_mechanisms(self, slot_id: int) -> frozenset[str]:
        """Return the names, as "CKM_AES_GCM", of what the token in a slot lists of those that kmsd chooses from. One
        call, where `mechanisms` makes one for each of them and more. Raises CkrError."""
        listed = calls.mechanisms(self.cryptoki.table, slot_id)
        return frozenset(name for number, name in _SERVING.items() if number in listed)

    def mechanisms(self, slot_id: int) -> tuple[MechanismView, ...]:
        """Return what the token in a slot lists, by number. Raises CkrError."""
        found = []
        for number in sorted(calls.mechanisms(self.cryptoki.table, slot_id)):
            info = calls.mechanism_info(self.cryptoki.table, slot_id, number)
            flags = tuple(words for bit, words in _MECHANISM_FLAGS.items() if info.flags & bit)
            found.append(MechanismView(number, mechanism_name(number), info.smallest, info.largest, flags))
        return tuple(found)


_loaded: dict[str, Module] = {}
_loading = threading.Lock()


def load(path: str) -> Module:
    """Load the module at this path, and initialise it for many threads.

    Raises Misconfigured if there is no usable module, Unavailable if it would not initialise.
    """
    if not path:
        raise Misconfigured("no PKCS#11 module is configured", "name it with --p11-lib, or use --provider softhsm")
    resolved = str(Path(path).resolve())
    with _loading:
        module = _loaded.get(resolved)
        try:
            if module is None:
                _refuse_pipe(resolved)
                module = _loaded[resolved] = Module(resolved)
            else:
                module.initialize()
        except OSError as error:
            raise Misconfigured(
                f"PKCS#11 module {path} cannot be loaded: {error}",
                "check the path given as --p11-lib and that the file is a library for this machine",
            ) from error
        except AttributeError as error:
            raise Misconfigured(f"{path} is no PKCS#11 module: {error}", "check the path given as --p11-lib") from error
        except CkrError as error:
            raise Unavailable(
                f"PKCS#11 module {path} does not initialise: {error.name}",
                "check the module's own configuration (for SoftHSM: SOFTHSM2_CONF and its token directory)",
            ) from error
    return module


def _refuse_pipe(path: str) -> None:
    """Raise Misconfigured for a pipe: dlopen(3) would wait for its other end."""
    if Path(path).is_fifo():
        raise Misconfigured(
            f"PKCS#11 module {path} cannot be loaded: it is a pipe", "check the path given as --p11-lib"
        )


def find_softhsm() -> str:
    """Return the path of SoftHSM's module. Raises Misconfigured if it is not installed in a known place."""
    for path in SOFTHSM_MODULES:
        if Path(path).exists():
            return path
    raise Misconfigured(
        "SoftHSM is not installed in a known place",
        "install it (Debian, Ubuntu: apt-get install softhsm2), or name its module with --p11-lib",
    )


def mechanism_name(number: int) -> str:
    """Return a mechanism's name as PKCS#11 writes it; a vendor's own by its number."""
    # Here, because nothing else needs the library, and few ask.
    from pkcs11.mechanisms import Mechanism

    try:
        # The library puts "_" before the names that it counts as old: _MD5 is CKM_MD5.
        return f"CKM_{Mechanism(number).name.lstrip('_')}"
    except ValueError:
        return f"CKM 0x{number:08x}"


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
