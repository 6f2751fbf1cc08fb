"""Look at a token, and change it, from another process, with the PIN of the login: some modules miss what was made
after they were initialised, and only a process that begins anew tells."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from kmsd.errors import KmsdError
from kmsd.hsm.login import Connected
from kmsd.hsm.other_process import OtherProcess
from kmsd.hsm.pin_guard import PinGuard


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
        """The PIN that a process beside was told is wrong, although the login was made with it; empty if none."""

    @property
    def misses_objects(self) -> bool:
        """Whether the token is up, and its module is known to miss objects that other processes make."""
        connected = self._connected()
        return connected is not None and connected.quirks.misses_objects

    async def process(self) -> OtherProcess | None:
        """Return another process on the token. None unless the PIN that is configured now is that of this login:
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
        return OtherProcess(connected.module, connected.token.label, pin)

    async def has_key(self, cka_id: bytes, timeout: float) -> bool:
        """Return whether the token has a private object with this CKA_ID; False if that cannot be found out within
        `timeout` seconds."""
        other = await self.process()
        if other is None:
            return False

        def find() -> bool:
            try:
                return other("find", cka_id.hex())
            finally:
                # Noted here, so that the PIN is not tried again even where nobody waits for the answer any more.
                if other.pin_refused:
                    self._refused(other.pin or "")

        try:
            async with asyncio.timeout(timeout):
                return await asyncio.to_thread(find)
        except (TimeoutError, OSError, ValueError):
            return False

    async def pin_was_refused(self) -> None:
        """Note that another process was told that the PIN of this login is wrong."""
        connected = self._connected()
        if connected is not None:
            await asyncio.to_thread(self._refused, connected.pin)

    def _refused(self, pin: str) -> None:
        # The PIN was changed on the token meanwhile: neither a process beside nor the next login tries it again.
        self._wrong_pin = pin
        self._guard.was_refused(pin)
