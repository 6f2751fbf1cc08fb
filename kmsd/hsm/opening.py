"""Finding a token, logging in and opening its sessions: everything that happens on the control thread.

A wrong PIN is never tried twice: tokens lock. An operator's word allows one more attempt, see `Opener.allow`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from kmsd.errors import KmsdError, Misconfigured
from kmsd.hsm import choosing, quirks
from kmsd.hsm import module as modules
from kmsd.hsm.address import TokenAddress, choose_slot
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.elsewhere import other_process
from kmsd.hsm.explain import explain
from kmsd.hsm.findings import Deed, Elsewhere
from kmsd.hsm.module import Module, SlotView, TokenView
from kmsd.hsm.quirks import Quirks
from kmsd.hsm.session import TokenSession
from kmsd.hsm.trials import Place

_PIN_ERRORS: Final = frozenset(
    {
        "CKR_PIN_INCORRECT",
        "CKR_PIN_EXPIRED",
        "CKR_PIN_INVALID",
        "CKR_PIN_LEN_RANGE",
        "CKR_USER_PIN_NOT_INITIALIZED",
    }
)


class PinRefused(Misconfigured):
    """The token refused the PIN, or is about to lock. Nothing is tried again until an operator has acted."""


@dataclass(frozen=True)
class Opened:
    """A token with its sessions open, one for each worker."""

    module: Module
    slot_id: int
    token: TokenView
    sessions: list[TokenSession]
    mechanisms: frozenset[str]
    """Of those that kmsd chooses from, what the token lists, "CKM_AES_CBC"; without AES-GCM if that does not work."""
    quirks: Quirks
    gcm_refused: str
    """Why AES-GCM is not used although the token lists it; empty otherwise."""
    gcm_unauthenticated: bool
    """It takes what was changed."""


class Opener:
    """Opens one token, again and again. Its methods run on the control thread.

    read_pin: gives the PIN at each login; raises KmsdError if it cannot.
    """

    def __init__(self, address: TokenAddress, read_pin: Callable[[], str | None]) -> None:
        self._address = address
        self._read_pin = read_pin
        self._refused_pin = b""
        self._accepted_pin = b""
        self._proven: set[bytes] = set()
        """Digests of the PINs that opened the token once, and may be tried once more after they were refused."""
        self._word: Literal["", "reload", "unlock"] = ""
        self._login: TokenSession | None = None
        self._sessions: list[TokenSession] = []
        self.module: Module | None = None

    def load(self) -> Module:
        """The module, initialised. Raises KmsdError."""
        path = module_path(self._address.provider, self._address.module)
        self.module = modules.load(path)
        return self.module

    def open(self) -> Opened:
        """Log in and open the sessions. Raises KmsdError, PinRefused among them."""
        # What an attempt left whose waiter has gone: nobody holds its sessions.
        self.close()
        module = self.load()
        try:
            slot = choose_slot(module.slots(), self._address, module.path)
            view = _present(slot)
            row = quirks.choose(self._address.provider, module.path, view.manufacturer)
            listed = module.serving_mechanisms(slot.slot_id)
            module.cbc_from_ecb = row.cbc_from_ecb and "CKM_AES_CBC" not in listed and "CKM_AES_ECB" in listed
            if module.cbc_from_ecb:
                listed |= {"CKM_AES_CBC"}
            module.used[slot.slot_id] = {}
            module.trusted_public = self._address.trusted_public
            # Held as long as the login: a token may log out with its last session.
            self._login = TokenSession(module, slot.slot_id)
            if "LOGIN_REQUIRED" in view.flags:
                self._log_in(module, self._login, view)
            choice = choosing.choose(Place(module.cryptoki.table, slot.slot_id), listed, row)
            if choice.gcm_iv_by_token:
                module.gcm_iv_by_token.add(slot.slot_id)
            wanted = self._address.sessions if module.multithreaded and not row.serial else 1
            self._sessions = [TokenSession(module, slot.slot_id)]
            with contextlib.suppress(CkrError):
                # A token with few sessions serves with those it has.
                self._sessions.extend(TokenSession(module, slot.slot_id) for _ in range(wanted - 1))
        except BaseException as error:
            self.close()
            if isinstance(error, CkrError):
                raise explain(error, str(self._address)) from error
            raise
        return Opened(
            module,
            slot.slot_id,
            view,
            self._sessions,
            choice.mechanisms,
            row,
            choice.gcm_refused,
            choice.gcm_unauthenticated,
        )

    def pin(self) -> str | None:
        """Of the token, for a program that logs in beside the module. Raises KmsdError."""
        return self._read_pin()

    def allow(self, word: Literal["reload", "unlock"]) -> None:
        """An operator has acted, after the token refused the PIN: one attempt more with that same PIN.

        unlock: whatever PIN it is. reload: only one that the token accepted before, as when its PIN was changed and
        changed back; the first attempt that is refused ends that. Called on the event loop.
        """
        if self._refused_pin:
            self._word = word

    def quirks(self) -> Quirks | None:
        """What is known of the module before its token is; None if there is no module."""
        return quirks.choose(self._address.provider, self.module.path) if self.module is not None else None

    def elsewhere(self, token: TokenView) -> Elsewhere | None:
        """Another program's hand on the token that is open. None unless the PIN that is configured now is the one that
        opened it: another could be wrong."""
        pin: str | None = None
        if "LOGIN_REQUIRED" in token.flags:
            try:
                pin = self._read_pin()
            except KmsdError:
                return None
            if pin is None or not hmac.compare_digest(_digest(pin), self._accepted_pin):
                return None
        if self.module is None:
            return None
        other = other_process(self.module.path, token.label, pin)

        def act(do: Deed, label: str) -> bool:
            try:
                return other(do, label)
            except ValueError as error:
                if pin is not None and any(name in str(error) for name in _PIN_ERRORS):
                    # It was changed on the token meanwhile: neither this nor the next login tries it again.
                    self._refused_pin, self._accepted_pin = _digest(pin), b""
                raise

        return act

    def close(self) -> None:
        """Log out, by closing what `open` opened. The workers have been drained."""
        held, self._sessions, self._login = (*self._sessions, self._login), [], None
        if self.module is None or not self.module.initialized:
            return
        for session in held:
            if session is not None:
                with contextlib.suppress(CkrError):
                    session.close()

    def forget(self) -> None:
        """The module has been finalised: no session of it exists any more."""
        self._sessions, self._login = [], None

    def _log_in(self, module: Module, session: TokenSession, view: TokenView) -> None:
        name = f"token {view.label!r}"
        if "USER_PIN_LOCKED" in view.flags:
            raise _pin_locked(name)
        if "USER_PIN_FINAL_TRY" in view.flags:
            raise PinRefused(
                f"one more wrong PIN would lock {name}, so kmsd does not try its own",
                "log in once with the right PIN and the token's own tool, which resets the count; put that PIN where "
                "kmsd reads it, then reload kmsd (SIGHUP)",
            )
        pin = self._read_pin()
        if pin is None:
            raise PinRefused(
                f"{name} needs a PIN and none is configured",
                "name a file that holds it: token.pin_file in kmsd's configuration, then reload kmsd (SIGHUP), or "
                "--p11-pin-file, then restart it",
            )
        digest = _digest(pin)
        if hmac.compare_digest(digest, self._refused_pin) and not self._allowed(digest):
            raise _pin_refused(name, "as before")
        try:
            module.cryptoki.login(session.handle, pin)
        except CkrError as error:
            if error.name == "CKR_PIN_LOCKED":
                # Nothing was said about the PIN: after a reload it is tried again.
                raise _pin_locked(name) from error
            if error.name in _PIN_ERRORS:
                # Kept here, on the one thread that logs in, so that no cancelled waiter can lose it.
                self._refused_pin, self._word = digest, ""
                raise _pin_refused(name, error.name) from error
            raise
        self._refused_pin, self._word = b"", ""
        self._accepted_pin = digest
        self._proven.add(digest)

    def _allowed(self, digest: bytes) -> bool:
        """Use up the operator's last word (reload or unlock), and return whether a refused PIN may be tried again."""
        word, self._word = self._word, ""
        allowed = word == "unlock" or (word == "reload" and digest in self._proven)
        if allowed:
            self._proven.discard(digest)
        return allowed


def _present(slot: SlotView) -> TokenView:
    if slot.token is None:
        raise CkrError("CKR_TOKEN_NOT_PRESENT", "C_GetTokenInfo")
    return slot.token


def module_path(provider: str, path: str) -> str:
    """The module, found where distributions put it if none is named. Raises Misconfigured."""
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


def _pin_locked(token: str) -> PinRefused:
    return PinRefused(
        f"the user PIN of {token} is locked after wrong PINs; kmsd does not try its own",
        "unlock it with the SO PIN (a TPM: wait for its recovery time, or tpm2_dictionarylockout --clear-lockout), "
        "then reload kmsd (SIGHUP)",
    )


def _digest(pin: str) -> bytes:
    return hashlib.sha256(pin.encode()).digest()


def _pin_refused(token: str, why: str) -> PinRefused:
    return PinRefused(
        f"{token} refused the PIN ({why}); kmsd does not try it again",
        "correct the PIN in the file named by --p11-pin-file, then reload kmsd (SIGHUP); if it is the right one after "
        "all, kmsctl unlock tries it once more; systemd copies a credential only when it starts kmsd",
    )
