"""Look at a token, and change it, from another process, with the PIN of the login: some modules miss what was made
after they were initialised, and only a process that begins anew tells."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from kmsd.errors import KmsdError
from kmsd.hsm.doctor.findings import Elsewhere
from kmsd.hsm.doctor.other_process import other_process
from kmsd.hsm.login import Connected
from kmsd.hsm.pin_guard import PIN_ERRORS, PinGuard


class Beside:
    """The other process on the same token. connected: gives the login, or None while the token is away. read_pin,
    guard: see `Hsm`."""

    def __init__(
        self, connected: Callable[[], Connected | None], read_pin: Callable[[], str | None], guard: PinGuard
    ) -> None:
        self._connected = connected
        self._read_pin = read_pin
        self._guard = guard
        self._wrong_pin = ""
        """That a process beside was told is wrong, although the login was made with it."""

    @property
    def misses_objects(self) -> bool:
        """Whether the token is up, and its module is known to miss objects that other processes make."""
        connected = self._connected()
        return connected is not None and connected.quirks.misses_objects

    async def hand(self) -> Elsewhere | None:
        """Return another program's hand on the token. None unless the PIN that is configured now is that of this login:
        another could be wrong."""
        connected = self._connected()
        if connected is None:
            return None
        pin: str | None = None
        if "LOGIN_REQUIRED" in connected.token.flags:
            try:
                pin = await asyncio.to_thread(self._read_pin)
            except KmsdError:
                return None
            if not pin or pin == self._wrong_pin or not hmac.compare_digest(pin.encode(), connected.pin.encode()):
                return None
        other = other_process(connected.module, connected.token.label, pin)

        def act(do: str, label: str) -> bool:
            try:
                return other(do, label)  # type: ignore[arg-type]
            except ValueError as error:
                if pin is not None and any(name in str(error) for name in PIN_ERRORS):
                    self._refused(pin)
                raise

        return act

    async def has_key(self, cka_id: bytes, timeout: float) -> bool:
        """Return whether the token has a private object with this CKA_ID; False if that cannot be found out within
        `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                other = await self.hand()
                return other is not None and await asyncio.to_thread(other, "find", cka_id.hex())
        except (TimeoutError, OSError, ValueError):
            return False

    async def pin_was_refused(self) -> None:
        """Note that another process was told that the PIN of this login is wrong."""
        connected = self._connected()
        if connected is not None:
            await asyncio.to_thread(self._refused, connected.pin)

    def _refused(self, pin: str) -> None:
        # It was changed on the token meanwhile: neither a process beside nor the next login tries it again.
        self._wrong_pin = pin
        self._guard.was_refused(pin)
