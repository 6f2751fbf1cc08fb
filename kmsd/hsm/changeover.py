"""One host process in the place of another: begun, logged in, sent to from then on, and the old one let go.

When that is to happen is for `kmsd.hsm.hosting`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kmsd.errors import KmsdError, Unavailable
from kmsd.hsm import login
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.claims import Claims, SameToken
from kmsd.hsm.dispatch import Dispatch
from kmsd.hsm.host.opening import FoundToken
from kmsd.hsm.login import Connected
from kmsd.hsm.pin_guard import PinGuard, PinRefused
from kmsd.hsm.process import HostProcess
from kmsd.hsm.vendors.tpm_care import TpmCare
from kmsd.hsm.vendors.tpm_key_slots import Room
from kmsd.observe.printed import Printed

GRACE_SECONDS: Final = 5.0
"""Time that a host has to answer what it was asked, to finalise the module, and to end."""
STUCK_GRACE_SECONDS: Final = 0.5
"""Time that a host has to end in which a call hangs."""


@dataclass(frozen=True)
class TokenWiring:
    """The surroundings of one token: which it is, and who is told of what. The fields are those of `Hsm`."""

    address: TokenAddress
    read_pin: Callable[[], str | None]
    guard: PinGuard
    on_change: Callable[[], None]
    tell: Callable[[str], None]
    name: str
    claims: Claims
    printed: Printed


class Changeover:
    """The host that serves, and the way from one to the next.

    spawn: lets something run in the background. gone: told of a host that has ended. retry: has the token tried again
    in the background while it is down.

    error: why the token is down. refused: nothing is tried before an operator has acted. settled: cleared while a host
    that has gone is being replaced. hosts: how many have served. reason: why the last one was started. opening: held by
    whoever begins or ends a host. closed: nothing is begun any more.
    """

    def __init__(
        self,
        wiring: TokenWiring,
        dispatch: Dispatch,
        spawn: Callable[[Awaitable[None]], object],
        gone: Callable[[HostProcess], None],
        retry: Callable[[], None],
    ) -> None:
        self.error: KmsdError = Unavailable(f"{wiring.address} is not connected yet", "try again in a moment")
        self.refused = False
        self.settled = asyncio.Event()
        self.settled.set()
        self.hosts = 0
        self.reason = ""
        self.care = TpmCare(wiring.address, wiring.tell)
        self.dispatch = dispatch
        self.opening = asyncio.Lock()
        self.closed = False
        self._wiring = wiring
        self._spawn = spawn
        self._gone = gone
        self._retry = retry

    @property
    def connected(self) -> Connected | None:
        """The token as it is used now, or None."""
        return self.dispatch.connected

    @property
    def name(self) -> str:
        """The token in words, for sentences."""
        return f"token {self.connected.token.label!r}" if self.connected is not None else str(self._wiring.address)

    @property
    def room(self) -> Room | None:
        """The number of keys that this login may use, and those that it uses. None: no bound is known, or the token is
        away."""
        connected = self.connected
        if connected is None or connected.keys_most is None:
            return None
        return Room(connected.keys_most, connected.host.used)

    async def open_or_say(self, why: str) -> str:
        """Connect, or say in `error` why not. Returns as `open`. The lock is held."""
        failed = await self.open(why)
        if failed == "CKR_GENERAL_ERROR" and self.connected is None:
            swept, self.error = await self.care.sweep(self.error)
            if swept:
                failed = await self.open(why)
            if failed == "CKR_GENERAL_ERROR":
                await self.care.examine(self.connected)
                self.error = self.care.ailment or self.error
        if self.connected is None:
            self.dispatch.queue.fail_all(self.error)
        return failed

    async def open(self, why: str) -> str:
        """Try once to open the token. Return the name of what the token answered if it failed, empty if it was no such
        failure."""
        try:
            fresh = await login.log_in(
                self._wiring.address,
                self._wiring.read_pin,
                self._wiring.guard,
                self._gone,
                self._claim,
                self._wiring.printed,
            )
        except KmsdError as error:
            self.refused = self.refused or isinstance(error, PinRefused | SameToken)
            if self.connected is None:
                self.error = error.again()
            else:
                self._wiring.tell(f"the host process was not replaced ({why}): {error.message}; the old one goes on")
            return error.__cause__.name if isinstance(error.__cause__, CkrError) else ""
        finally:
            self._wiring.claims.looked(self._wiring.name)
        self.hosts += 1
        self.reason, self.refused = why, False
        self.care.well()
        old = self.dispatch.use(fresh)
        if old is not None:
            stuck = bool(self.dispatch.stuck(old.host))
            end = old.host.end(STUCK_GRACE_SECONDS if stuck else GRACE_SECONDS, patient=not stuck)
            self._spawn(self._have_all_sessions(fresh, end) if fresh.sessions < old.sessions else end)
        return ""

    async def _claim(self, found: FoundToken) -> None:
        await self._wiring.claims.claim(self._wiring.name, found.module, found.slot_id, found.token)

    async def _have_all_sessions(self, small: Connected, end: Awaitable[None]) -> None:
        """Replace a host that got only the sessions that the old one left: once the old one has ended, another host is
        begun."""
        await end
        async with self.opening:
            if self.connected is small:
                await self.open_alone("the one before it held the token's other sessions")
        self._wiring.on_change()
        self._retry()

    async def open_alone(self, why: str) -> None:
        """End the host, and have another one log in after that. Calls wait. The lock is held."""
        self.settled.clear()
        try:
            await self.let_go(Unavailable(f"{self.name} is being reconnected: {why}", "try again"), GRACE_SECONDS)
            await self.open_or_say(why)
        finally:
            self.settled.set()

    async def let_go(self, why: KmsdError, grace: float) -> None:
        """End the host before there is another one."""
        connected, self.dispatch.connected = self.connected, None
        self.error = why
        if connected is not None:
            self._wiring.on_change()
            await connected.host.end(grace)
            self.dispatch.hand_back(connected.host, again=not self.closed)
        if self.settled.is_set():
            self.dispatch.queue.fail_all(why)

    def lost(self, what: str) -> Unavailable:
        """Return the error of a token that was lost."""
        return Unavailable(f"{self.name} was lost ({what})", "kmsd reconnects by itself; check the token")
