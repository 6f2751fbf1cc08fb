"""Decide whether a PIN may be tried: never twice after the token refused it, for tokens lock after a few wrong ones.

What was refused is remembered in the state directory, by token and a salted digest of the PIN, so that a supervisor
that starts kmsd again and again uses up one attempt and not all of them. Another PIN, or an operator's word, clears it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
from pathlib import Path
from typing import Final, Literal

from kmsd import state
from kmsd.errors import Misconfigured
from kmsd.hsm.host.info import TokenView

_SALT_BYTES: Final = 16
_writing: Final = threading.Lock()
"""Held while the file is read and written again: several tokens share it."""


class PinRefused(Misconfigured):
    """The token refused the PIN, or is about to lock. Nothing is tried again until an operator has acted."""


class PinGuard:
    """The memory of which PINs one token refused.

    token: its name in the configuration. directory: the state directory, where what was refused is remembered; None:
    nowhere.
    """

    def __init__(self, token: str, directory: Path | None) -> None:
        self._token = token
        self._directory = directory
        self._key = os.urandom(_SALT_BYTES)
        self._salt = os.urandom(_SALT_BYTES)
        self._refused = b""
        """Slow digest of the PIN that was refused last."""
        self._proven: set[bytes] = set()
        """Digests of the PINs that opened the token once, and may be tried once more after they were refused."""
        self._word: Literal["", "reload", "unlock"] = ""
        self.problem = ""
        """The reason why the memory of refusals does not outlive this process; empty if it does."""
        self._recall()

    def allow(self, word: Literal["reload", "unlock"]) -> None:
        """Allow, because an operator has acted after the token refused the PIN, one attempt more with that same PIN.

        unlock: whatever PIN it is. reload: only one that the token accepted before, as when its PIN was changed and
        changed back; the first attempt that is refused ends that.
        """
        if self._refused:
            self._word = word

    def check(self, view: TokenView, pin: str | None) -> None:
        """Raise PinRefused unless this PIN may be tried on this token."""
        name = f"token {view.label!r}"
        if "USER_PIN_LOCKED" in view.flags:
            raise locked(name)
        if "USER_PIN_FINAL_TRY" in view.flags:
            raise PinRefused(
                f"one more wrong PIN would lock {name}, so kmsd does not try its own",
                "log in once with the right PIN and the token's own tool, which resets the count; put that PIN where "
                "kmsd reads it, then reload kmsd (SIGHUP)",
            )
        if pin is None:
            raise PinRefused(
                f"{name} needs a PIN and none is configured",
                "name a file that holds it: token.pin_file in kmsd's configuration, then reload kmsd (SIGHUP), or "
                "--p11-pin-file, then restart it",
            )
        if self._refused and hmac.compare_digest(self._slow_digest(pin), self._refused) and not self._allowed(pin):
            raise refused(name, "as before")

    def was_refused(self, pin: str) -> None:
        """Remember that the token refused this PIN."""
        self._refused, self._word = self._slow_digest(pin), ""
        self._remember()

    def was_accepted(self, pin: str) -> None:
        """Remember that the token took this PIN."""
        if self._refused:
            self._refused = b""
            self._remember()
        self._word = ""
        self._proven.add(self._digest(pin))

    def _allowed(self, pin: str) -> bool:
        """Use up the operator's last word (reload or unlock), and return whether a refused PIN may be tried again."""
        word, self._word = self._word, ""
        digest = self._digest(pin)
        allowed = word == "unlock" or (word == "reload" and digest in self._proven)
        if allowed:
            self._proven.discard(digest)
        return allowed

    def _digest(self, pin: str) -> bytes:
        return hmac.digest(self._key, pin.encode(), "sha256")

    def _slow_digest(self, pin: str) -> bytes:
        # A PIN is short, and whoever may read the file should not find it by trying all.
        return hashlib.scrypt(pin.encode(), salt=self._salt, n=2**14, r=8, p=1)

    # The file holds each token's name, with a salt and a digest.

    def _recall(self) -> None:
        if self._directory is None:
            return
        try:
            known = state.refused_pins(self._directory).get(self._token)
        except Misconfigured as error:
            self.problem = f"{error.message}: a PIN that a token refused before may be tried once more"
            return
        with contextlib.suppress(TypeError, KeyError, ValueError):
            if known is not None:
                self._salt, self._refused = bytes.fromhex(known["salt"]), bytes.fromhex(known["refused"])

    def _remember(self) -> None:
        if self._directory is None:
            return
        with _writing:
            try:
                known = state.refused_pins(self._directory)
            except Misconfigured:
                known = {}
            known.pop(self._token, None)
            if self._refused:
                known[self._token] = {"salt": self._salt.hex(), "refused": self._refused.hex()}
            try:
                state.remember_refused_pins(self._directory, known)
            except (OSError, Misconfigured) as error:
                self.problem = (
                    f"that token {self._token!r} refused the PIN cannot be remembered in {self._directory} "
                    f"({state.reason(error)}): each start of kmsd tries it once, and the token may lock"
                )
            else:
                self.problem = ""


def locked(token: str) -> PinRefused:
    """Return the error of a token that has locked its PIN. token: in words."""
    return PinRefused(
        f"the user PIN of {token} is locked after wrong PINs; kmsd does not try its own",
        "unlock it with the SO PIN (a TPM: wait for its recovery time, or tpm2_dictionarylockout --clear-lockout), "
        "then reload kmsd (SIGHUP)",
    )


def refused(token: str, why: str) -> PinRefused:
    """Return the error of a PIN that is not tried again. token: in words. why: what the token said."""
    return PinRefused(
        f"{token} refused the PIN ({why}); kmsd does not try it again",
        "correct the PIN in the file named by --p11-pin-file, then reload kmsd (SIGHUP); if it is the right one after "
        "all, kmsctl unlock tries it once more; systemd copies a credential only when it starts kmsd",
    )
