"""One token in this process: the module loaded, the slot found, logged in, and the sessions that serve.

Lives in a host process, which does this once: to begin anew means a new process. Whether a PIN may be tried is decided
by kmsd (`kmsd.hsm.pin_guard`), which hands it over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kmsd.hsm.address import TokenAddress, choose_slot
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor.findings import Findings
from kmsd.hsm.host import calls, mechanism_selection
from kmsd.hsm.host import module as modules
from kmsd.hsm.host.info import MechanismView, SlotView, TokenView
from kmsd.hsm.host.module import Module
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.host.trials import TrialPlace
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.vendors import quirks
from kmsd.hsm.vendors.quirks import Quirks

_NO_SESSION: Final = "CKR_SESSION_COUNT"


@dataclass(frozen=True)
class FoundToken:
    """The token that is meant, before the login. module: path. multithreaded: many threads may be inside the module."""

    module: str
    multithreaded: bool
    slot_id: int
    token: TokenView
    quirks: Quirks


@dataclass(frozen=True)
class LoggedIn:
    """A token in use. sessions: how many serve."""

    sessions: int
    mechanisms: frozenset[str]
    """The mechanisms, of those that kmsd chooses from, that the token lists, "CKM_AES_CBC"; without AES-GCM if that
    does not work."""
    gcm_refused: str
    """The reason why AES-GCM is not used although the token lists it; empty otherwise."""
    gcm_unauthenticated: bool
    """Whether AES-GCM is not used because the token decrypts what was changed."""


class OpenToken:
    """The token of one host process. Its methods run one at a time."""

    def __init__(self) -> None:
        self.address: TokenAddress | None = None
        self.sessions: list[TokenSession] = []
        """Sessions that serve. Whoever takes them closes them."""
        self.pin: str | None = None
        """The PIN of the login, for a program beside that looks as another one would."""
        self.only: TokenSession | None = None
        """The session that does everything, on a token that has no other; it holds the login."""
        self.findings = Findings()
        """Findings of the checks that are being made, or were made last."""
        self._module: Module | None = None
        self._found: FoundToken | None = None
        self._login: TokenSession | None = None
        self._inside = threading.RLock()

    @property
    def module(self) -> Module:
        """The module, loaded. Raises KmsdError if it cannot be."""
        if self._module is None:
            address = self._address()
            self._module = modules.load(modules.module_path(address.provider, address.module))
        return self._module

    @property
    def found(self) -> FoundToken:
        """The token that `find` found. Raises RuntimeError before it."""
        if self._found is None:
            raise RuntimeError("no token was looked for yet")
        return self._found

    def _address(self) -> TokenAddress:
        if self.address is None:
            raise RuntimeError("no token was named yet")
        return self.address

    @operation(Operation.FIND_TOKEN, alone=True)
    def find(self, address: TokenAddress) -> FoundToken:
        """Load the module and find the token. Raises KmsdError and CkrError."""
        self.address = address
        module = self.module
        slot = choose_slot(module.slots(), address, module.path)
        view = _present(slot)
        row = quirks.choose(address.provider, module.path, view.manufacturer)
        self._found = FoundToken(module.path, module.multithreaded, slot.slot_id, view, row)
        return self._found

    @operation(Operation.LOG_IN, alone=True)
    def log_in(self, pin: str | None) -> LoggedIn:
        """Log in and open the sessions. pin: None where the token asks for none. Raises CkrError and
        KmsdError."""
        address, module, found = self._address(), self.module, self.found
        slot_id, row = found.slot_id, found.quirks
        listed = module.serving_mechanisms(slot_id)
        module.cbc_from_ecb = row.cbc_from_ecb and "CKM_AES_CBC" not in listed and "CKM_AES_ECB" in listed
        if module.cbc_from_ecb:
            listed |= {"CKM_AES_CBC"}
        module.used[slot_id] = {}
        module.trusted_public = address.trusted_public
        module.tls_key = address.tls_key
        module.with_login = pin is not None
        self.pin = pin
        # Held as long as the login: a token may log out with its last session.
        self._login = self._logged_in(module, slot_id, rw=False)
        choice = mechanism_selection.choose(TrialPlace(module.cryptoki.table, slot_id), listed, row)
        module.gcm_iv[slot_id] = choice.gcm_iv
        self._open_sessions(module, slot_id, address.sessions if module.multithreaded and not row.serial else 1)
        return LoggedIn(len(self.sessions), choice.mechanisms, choice.gcm_refused, choice.gcm_unauthenticated)

    def _logged_in(self, module: Module, slot_id: int, *, rw: bool) -> TokenSession:
        session = TokenSession(module, slot_id, rw=rw)
        if self.pin is None:
            return session
        try:
            calls.log_in(module.cryptoki, session.handle, self.pin)
        except CkrError:
            with contextlib.suppress(CkrError):
                session.close()
            raise
        return session

    def _open_sessions(self, module: Module, slot_id: int, wanted: int) -> None:
        try:
            self.sessions = [TokenSession(module, slot_id)]
        except CkrError as error:
            if error.name != _NO_SESSION or self._login is None:
                raise
            # A token with one session: that one holds the login, serves and changes keys.
            rw = "WRITE_PROTECTED" not in self.found.token.flags
            if rw:
                self._login.close()
                self._login = self._logged_in(module, slot_id, rw=True)
            self.only = self._login
            self.sessions = [self._login]
            return
        with contextlib.suppress(CkrError):
            # A token with few sessions serves with those it has.
            self.sessions.extend(TokenSession(module, slot_id) for _ in range(wanted - 1))

    @property
    def used(self) -> dict[tuple[bytes, str], None]:
        """The keys that sessions have looked up since the login, by CKA_ID and kind, in order."""
        return {} if self._module is None or self._found is None else self._module.used.get(self._found.slot_id, {})

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads out of a module that takes one at a time, or of a device that does."""
        found = self._found
        if found is not None and found.multithreaded and not found.quirks.serial:
            yield
            return
        with self._inside:
            yield

    def session(self, *, rw: bool = False) -> TokenSession:
        """Open one more session. Raises CkrError."""
        return TokenSession(self.module, self.found.slot_id, rw=rw)

    @operation(Operation.LIST_SLOTS, alone=True)
    def slots(self, address: TokenAddress) -> list[SlotView]:
        """Return all slots of the module, whether the token is there or not. Raises KmsdError and CkrError."""
        self.address = self.address or address
        return self.module.slots()

    @operation(Operation.LIST_MECHANISMS, alone=True)
    def mechanisms(self) -> tuple[MechanismView, ...]:
        """Return what the token lists. Raises CkrError."""
        return self.module.mechanisms(self.found.slot_id)

    def close(self) -> None:
        """Log out and finalise the module. No thread may be inside it any more."""
        if self._login is not None:
            with contextlib.suppress(CkrError):
                self._login.close()
        if self._module is not None:
            with contextlib.suppress(CkrError):
                self._module.finalize()


def _present(slot: SlotView) -> TokenView:
    if slot.token is None:
        raise CkrError("CKR_TOKEN_NOT_PRESENT", "C_GetTokenInfo")
    return slot.token
