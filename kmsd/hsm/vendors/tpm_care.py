"""Care for a TPM without a resource manager when a new host begins: ask it what ails it, and sweep it out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.login import Connected
from kmsd.hsm.vendors import quirks, tpm2

_ASK_PAUSE: Final = 2.0
"""Seconds between two times that an ailing token is asked what ails it."""


class TpmCare:
    """The care for a TPM without a resource manager. ailment: what a TPM says that does nothing with its keys; None if
    it says nothing, or is none."""

    def __init__(self, address: TokenAddress, tell: Callable[[str], None]) -> None:
        self.ailment: KmsdError | None = None
        self._address = address
        self._tell = tell
        self._swept = False
        """Whether what killed programs left was thrown out since the last login."""
        self._asked = -1e9

    def well(self) -> None:
        """Note that a host has logged in."""
        self.ailment, self._swept = None, False

    def one_login(self, connected: Connected | None) -> bool:
        """Return whether the device has room for one program."""
        return self._concerns(connected) and not tpm2.managed()

    def _concerns(self, connected: Connected | None) -> bool:
        row = connected.quirks if connected else quirks.choose(self._address.provider, self._address.module)
        return row.generates_through == "tpm2_ptool"

    async def examine(self, connected: Connected | None) -> None:
        """Ask a token that is there, and does nothing with its keys, what ails it; now and then at the most."""
        if not self._concerns(connected) or monotonic() - self._asked < _ASK_PAUSE:
            return
        label = connected.token.label if connected else self._address.label
        self.ailment = await asyncio.to_thread(tpm2.ailment, label, beside=connected is not None)
        self._asked = monotonic()

    async def sweep(self, error: KmsdError) -> tuple[bool, KmsdError]:
        """Throw out what a killed program has left in a TPM that refused the login with this error. Returns whether
        there was something, and the error as it is now.

        Once for each login, and while no host is there: whatever is loaded then is nobody's. Never through a resource
        manager, for there it may be somebody's.
        """
        if not self._concerns(None) or self._swept:
            return False, error
        try:
            self._swept = await asyncio.to_thread(tpm2.flush)
        except Misconfigured as missing:
            what = f"{error.message}; a killed program may have left the TPM full, but {missing.message}"
            return False, Unavailable(what, missing.hint)
        except KmsdError:
            return False, error  # the TPM does not answer the tools either
        if self._swept:
            self._tell(
                "the login failed, and the TPM, which no resource manager shares out, held what a killed program had "
                "loaded: that was thrown out, and the login is tried once more"
            )
        return self._swept, error
