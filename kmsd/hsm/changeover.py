"""One host process in the place of another: begun, logged in, sent to from then on, and the old one let go.

When that is to happen is for `kmsd.hsm.hosting`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from kmsd.errors import KmsdError, Unavailable
from kmsd.hsm import login
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.claims import Claims, SameToken
from kmsd.hsm.dispatch import Dispatch
from kmsd.hsm.host.opening import FoundToken
from kmsd.hsm.login import Connected
from kmsd.hsm.pin_guard import PinGuard, PinRefused
from kmsd.hsm.printed import Printed
from kmsd.hsm.process import HostProcess
from kmsd.hsm.vendors.tpm_care import TpmCare
from kmsd.hsm.vendors.tpm_key_slots import Room

T = TypeVar("T")

GRACE_SECONDS: Final = 5.0
"""Time that a host has to answer what it was asked, to finalise the module, and to end."""
STUCK_GRACE_SECONDS: Final = 0.5
"""Time that a host has to end in which a call hangs."""


class Changeover(ABC):
    """The host that serves, and the way from one to the next. See `Hsm` for what it is given.

    error: why the token is down. refused: nothing is tried before an operator has acted. settled: cleared while a host
    that has gone is being replaced. hosts: how many have served. reason: why the last one was started.
    """

    def __init__(
        self,
        address: TokenAddress,
        dispatch: Dispatch,
        read_pin: Callable[[], str | None],
        guard: PinGuard,
        on_change: Callable[[], None],
        tell: Callable[[str], None],
        name: str,
        claims: Claims,
        printed: Printed,
    ) -> None:
        self.address = address
        self.error: KmsdError = Unavailable(f"{address} is not connected yet", "try again in a moment")
        self.refused = False
        self.settled = asyncio.Event()
        self.settled.set()
        self.hosts = 0
        self.reason = ""
        self.care = TpmCare(address, tell)
        self.dispatch = dispatch
        self._read_pin = read_pin
        self._guard = guard
        self._on_change = on_change
        self._tell = tell
        self._name = name
        self._claims = claims
        self._printed = printed
        self._opening = asyncio.Lock()
        self._closed = False
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def connected(self) -> Connected | None:
        """The token as it is used now, or None."""
        return self.dispatch.connected

    @property
    def name(self) -> str:
        """The token in words, for sentences."""
        return f"token {self.connected.token.label!r}" if self.connected is not None else str(self.address)

    @property
    def room(self) -> Room | None:
        """The number of keys that this login may use, and those that it uses. None: no bound is known, or the token is
        away."""
        connected = self.connected
        if connected is None or connected.keys_most is None:
            return None
        return Room(connected.keys_most, connected.host.used)

    async def _open_or_say(self, why: str) -> str:
        """Connect, or say in `error` why not. Returns as `_open`. The lock is held."""
        failed = await self._open(why)
        if failed == "CKR_GENERAL_ERROR" and self.connected is None:
            swept, self.error = await self.care.sweep(self.error)
            if swept:
                failed = await self._open(why)
            if failed == "CKR_GENERAL_ERROR":
                await self.care.examine(self.connected)
                self.error = self.care.ailment or self.error
        if self.connected is None:
            self.dispatch.queue.fail_all(self.error)
        return failed

    async def _open(self, why: str) -> str:
        """Try once to open the token. Return the name of what the token answered if it failed, empty if it was no such
        failure."""
        try:
            fresh = await login.log_in(
                self.address, self._read_pin, self._guard, self._gone, self._claim, self._printed
            )
        except KmsdError as error:
            self.refused = self.refused or isinstance(error, PinRefused | SameToken)
            if self.connected is None:
                self.error = error.again()
            else:
                self._tell(f"the host process was not replaced ({why}): {error.message}; the old one goes on")
            return error.__cause__.name if isinstance(error.__cause__, CkrError) else ""
        finally:
            self._claims.looked(self._name)
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
        await self._claims.claim(self._name, found.module, found.slot_id, found.token)

    async def _have_all_sessions(self, small: Connected, end: Awaitable[None]) -> None:
        """Replace a host that had to be content with the sessions that the old one left, once that has ended: by one
        that begins after it."""
        await end
        async with self._opening:
            if self.connected is small:
                await self._open_alone("the one before it held the token's other sessions")
        self._on_change()
        self._retry()

    async def _open_alone(self, why: str) -> None:
        """End the host, and have another one log in after that. Calls wait. The lock is held."""
        self.settled.clear()
        try:
            await self._let_go(Unavailable(f"{self.name} is being reconnected: {why}", "try again"), GRACE_SECONDS)
            await self._open_or_say(why)
        finally:
            self.settled.set()

    async def _let_go(self, why: KmsdError, grace: float) -> None:
        """End the host before there is another one."""
        connected, self.dispatch.connected = self.connected, None
        self.error = why
        if connected is not None:
            self._on_change()
            await connected.host.end(grace)
            self.dispatch.hand_back(connected.host, again=not self._closed)
        if self.settled.is_set():
            self.dispatch.queue.fail_all(why)

    def _lost(self, what: str) -> Unavailable:
        return Unavailable(f"{self.name} was lost ({what})", "kmsd reconnects by itself; check the token")

    def _spawn(self, work: Awaitable[T]) -> asyncio.Future[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @abstractmethod
    def _gone(self, host: HostProcess) -> None:
        """Handle the end of a host."""

    @abstractmethod
    def _retry(self) -> None:
        """Try again and again in the background, while the token is down."""
