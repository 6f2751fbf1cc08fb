"""Loading a PKCS#11 module so that many threads may call it, and looking at its slots.

A module is loaded once per process and stays; it can be finalised and initialised again, which is how
most of them recover a lost token. Knows nothing of logins and keys.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from kmsd.errors import Misconfigured, Unavailable
from kmsd.hsm.address import KeyName
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host import info
from kmsd.hsm.host.cryptoki import Cryptoki
from kmsd.hsm.host.generator import Generator
from kmsd.hsm.host.info import LibraryInfo, MechanismView, SlotView
from kmsd.hsm.vendors import quirks
from kmsd.hsm.vendors.quirks import GcmIv

_SERVING: Final = {
    c.CKM_AES_GCM: "CKM_AES_GCM",
    c.CKM_AES_CBC: "CKM_AES_CBC",
    c.CKM_AES_ECB: "CKM_AES_ECB",
    c.CKM_SHA256_HMAC: "CKM_SHA256_HMAC",
    c.CKM_SHA512_HMAC: "CKM_SHA512_HMAC",
}


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
        self.tls_key: KeyName | None = None
        """The one key pair that may sign TLS handshakes."""
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

    def info(self) -> LibraryInfo:
        """Return what the module says of itself. Raises CkrError."""
        return info.library_info(self.cryptoki.table)

    def slots(self) -> list[SlotView]:
        """Return all slots, and the tokens in them. Raises CkrError."""
        table = self.cryptoki.table
        return [info.slot_view(table, slot, self.path) for slot in info.slot_ids(table)]

    def serving_mechanisms(self, slot_id: int) -> frozenset[str]:
        """Return the names, as "CKM_AES_GCM", of what the token in a slot lists of those that kmsd chooses from. One
        call, where `mechanisms` makes one for each of them and more. Raises CkrError."""
        listed = info.mechanisms(self.cryptoki.table, slot_id)
        return frozenset(name for number, name in _SERVING.items() if number in listed)

    def mechanisms(self, slot_id: int) -> tuple[MechanismView, ...]:
        """Return what the token in a slot lists, by number. Raises CkrError."""
        table = self.cryptoki.table
        return tuple(info.mechanism_view(table, slot_id, each) for each in sorted(info.mechanisms(table, slot_id)))


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


def module_path(provider: str, path: str) -> str:
    """Return the module, found where distributions put it if none is named. Raises Misconfigured."""
    if path or provider in ("auto", "p11", "generic"):
        return path
    found = quirks.find_module(provider)
    if found is None:
        row = quirks.choose(provider, "")
        raise Misconfigured(
            f"the module of {row.title} is not in a known place",
            f"{row.install or 'install it'}, or name its module with --p11-lib",
        )
    return found
