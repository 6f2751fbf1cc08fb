"""The host processes of one token: started, replaced, ended.

    down --a host logs in--> up --another one logs in--> up --its host dies, or the token is lost--> down ...

There is one way to get over anything: a new host. It begins while the old one still serves, wherever the token allows
two logins, and takes over when it is logged in; so a replacement on purpose fails and delays no call. A host that
crashes, or in which a call does not come back, is replaced the same way, and the calls that it held are done by the
next one where that is safe. Hosts are not started without end: pauses grow, and there is a bound to how many deaths a
minute are answered at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, Literal, TypeVar

from kmsd.errors import Denied, KmsdError, Unavailable
from kmsd.hsm import login
from kmsd.hsm.changeover import GRACE_SECONDS, STUCK_GRACE_SECONDS, Changeover, TokenWiring
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.dispatch import Dispatch
from kmsd.hsm.explain import explain
from kmsd.hsm.login import Connected
from kmsd.hsm.operation import Definition, Operation
from kmsd.hsm.process import HostProcess
from kmsd.hsm.suspicion import Suspicion, jitter

T = TypeVar("T")

_RETRY_FIRST: Final = 0.5
_RETRY_MOST: Final = 10.0
"""Seconds between two attempts to connect, from the first up to the last."""
_SOUND_SECONDS: Final = 2.0
"""A host that has served so long and dies is replaced at once; before, after a pause."""
_NO_SESSION: Final = "CKR_SESSION_COUNT"
_DEATHS_A_MINUTE: Final = 30
"""Number of hosts that are replaced at once; more are replaced after pauses."""


class Hosting:
    """The host processes of one token, kept going.

    changeover: the host that serves. attempted: set after the first attempt.
    """

    def __init__(self, wiring: TokenWiring, observe: Callable[[Operation, float], None]) -> None:
        dispatch = Dispatch(wiring.address, observe, lambda error: self._suspicion.suspect(error))
        self.changeover = Changeover(wiring, dispatch, self._spawn, self._gone, self._retry)
        self.attempted = asyncio.Event()
        self._wiring = wiring
        self._suspicion = Suspicion(wiring.address, self.changeover, self, self._spawn, wiring.tell)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._deaths: deque[float] = deque(maxlen=_DEATHS_A_MINUTE)
        self._trying: asyncio.Future[Any] | None = None
        self._unlocking: asyncio.Future[KmsdError | None] | None = None
        self._hurry = asyncio.Event()

    # Asked for by others.

    async def start(self) -> None:
        """Connect once; if that fails, go on trying in the background."""
        self._spawn(self._suspicion.watch())
        await self._attempt()
        self._retry()

    async def close(self) -> None:
        """End the host and everything that goes on here. Bounded in time."""
        self.changeover.closed = True
        self.changeover.dispatch.queue.fail_all(Unavailable("kmsd is stopping", "retry against the next kmsd"))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connected, self.changeover.dispatch.connected = self.changeover.connected, None
        if connected is not None:
            await connected.host.end(GRACE_SECONDS)

    def hurry(self) -> None:
        """Try at once what is away."""
        self.changeover.refused = False
        if self.changeover.connected is None:
            self._hurry.set()
            self._retry()

    async def unlock(self) -> KmsdError | None:
        """Log in at an operator's word; return why the token is not up after it, None if it is. Those who ask at the
        same time share one attempt."""
        if self._unlocking is None or self._unlocking.done():
            self._unlocking = self._spawn(self._unlock())
        return await asyncio.shield(self._unlocking)

    async def _unlock(self) -> KmsdError | None:
        self.changeover.refused = False
        await self._attempt(word="unlock")
        if self.changeover.connected is not None:
            return None
        self._retry()
        return (
            Denied(self.changeover.error.message, self.changeover.error.hint)
            if self.changeover.refused
            else self.changeover.error
        )

    async def replace(self, why: str, *, doubted: bool = False) -> bool:
        """Have another host take over, as the module may show a state that is not the token's. Returns whether the
        token is up after it.

        doubted: what it shows cannot be so, so that it does not go on if no other can log in.
        """
        self.changeover.refused = False
        before = self.changeover.connected
        await self._attempt(why)
        if doubted and before is not None and self.changeover.connected is before:
            await self.changeover.let_go(self.changeover.lost(why), GRACE_SECONDS)
        self._retry()
        return self.changeover.connected is not None

    async def without_module(self, fn: Callable[[str | None], T]) -> T:
        """Run fn(PIN) on a thread, for programs that change the token behind the module, and replace the host. Where
        the device has room for one program only, the host ends before, and calls wait meanwhile."""
        async with self.changeover.opening:
            if self.changeover.care.one_login(self.changeover.connected):
                self.changeover.settled.clear()
                await self.changeover.let_go(
                    Unavailable(f"{self.changeover.name} is being worked on", "try again"), GRACE_SECONDS
                )
            try:
                return await asyncio.to_thread(lambda: fn(self._wiring.read_pin()))
            finally:
                await self.changeover.open_or_say("keys were made beside the module")
                self.changeover.settled.set()
                self._wiring.on_change()
                self._retry()

    async def look(self, done: Definition, args: tuple[Any, ...], seconds: float) -> Any:
        """Have an operation done by a host of its own that does not log in. Raises KmsdError."""
        try:
            async with asyncio.timeout(seconds), self.changeover.opening:
                return await login.look(done, args, seconds, self._wiring.printed)
        except TimeoutError as error:
            raise Unavailable("the PKCS#11 module does not answer", "check the token and the network to it") from error
        except CkrError as error:
            raise explain(error, self.changeover.name) from error

    # Attempts.

    def _retry(self) -> None:
        """Try again and again in the background, while the token is down."""
        if self.changeover.connected is not None:
            return
        # A token that was given up on purpose has not come back.
        self._wiring.on_change()
        if self.changeover.refused or self.changeover.closed or (self._trying is not None and not self._trying.done()):
            return
        self._trying = self._spawn(self._keep_trying())

    async def _keep_trying(self) -> None:
        pause = _RETRY_FIRST
        # A word of an operator that came while an attempt was under way counts, whatever that attempt came to.
        while self.changeover.connected is None and (self._hurry.is_set() or not self.changeover.refused):
            try:
                async with asyncio.timeout(pause * jitter()):
                    await self._hurry.wait()
                pause = _RETRY_FIRST
            except TimeoutError:
                pause = min(pause * 2, _RETRY_MOST)
            if self._hurry.is_set():
                self._hurry.clear()
                self.changeover.refused = False
            elif self.changeover.refused:
                return
            await self._attempt()

    async def _attempt(self, why: str = "", word: Literal["", "unlock"] = "") -> None:
        """Have a new host log in, unless there is one. why: the reason to have a new one all the same. word: an
        operator's, for this attempt and no other that is under way."""
        before = self.changeover.connected
        async with self.changeover.opening:
            if self.changeover.connected is not None and (not why or self.changeover.connected is not before):
                return
            if word:
                self._wiring.guard.allow(word)
            if self.changeover.connected is not None and self.changeover.care.one_login(self.changeover.connected):
                self.changeover.settled.clear()
                await self.changeover.let_go(
                    Unavailable(f"{self.changeover.name} is being reconnected: {why}", "try again"), GRACE_SECONDS
                )
            try:
                failed = await self.changeover.open_or_say(why or "the token was away")
                if failed == _NO_SESSION and before is not None and self.changeover.connected is before:
                    # The token has no session for two.
                    await self.changeover.open_alone(why)
            finally:
                self.changeover.settled.set()
        self.attempted.set()
        if self.changeover.connected is not before or self.changeover.connected is None:
            self._wiring.on_change()

    def _spawn(self, work: Awaitable[T]) -> asyncio.Future[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Events.

    def _gone(self, host: HostProcess) -> None:
        """Handle the end of a host."""
        connected = self.changeover.connected
        serving = connected is not None and connected.host is host and not self.changeover.closed
        error = self.changeover.dispatch.hand_back(host, again=serving or self.changeover.connected is not None)
        if connected is None or not serving:
            return
        self._wiring.tell(f"{error.message}; another one is started")
        self.changeover.dispatch.connected = None
        self.changeover.error = error
        now = monotonic()
        many = len(self._deaths) == _DEATHS_A_MINUTE and now - self._deaths[0] < 60.0
        self._deaths.append(now)
        if now - connected.since > _SOUND_SECONDS and not many:
            # Calls wait for the next one.
            self.changeover.settled.clear()
            self._spawn(self._restart(error.message))
        else:
            self.changeover.dispatch.queue.fail_all(error)
            self._retry()

    async def _restart(self, why: str) -> None:
        try:
            await self._attempt(why)
        finally:
            self.changeover.settled.set()
        self._retry()

    async def replace_stuck(self, connected: Connected) -> None:
        """Replace a host from which a call has not come back for long."""
        oldest = next(iter(connected.host.inflight.values()))
        since = monotonic() - oldest.sent
        what = f"a call into the PKCS#11 module has not come back for {since:.0f} s ({oldest.done.name})"
        error = Unavailable(what, "kmsd replaces the process that it hangs in; check the token and the network to it")
        await self._replace(connected, error, STUCK_GRACE_SECONDS)

    async def replace_lost(self, connected: Connected, what: str) -> None:
        """Replace a host whose token seems to be lost."""
        await self._replace(connected, self.changeover.lost(what), GRACE_SECONDS)

    async def _replace(self, connected: Connected, error: KmsdError, grace: float) -> None:
        """Replace a host that is of no use any more, whether another one can log in or not."""
        self._wiring.tell(f"{error.message}: its process is replaced")
        async with self.changeover.opening:
            if self.changeover.connected is not connected:
                return
            if self.changeover.care.one_login(connected):
                self.changeover.settled.clear()
                await self.changeover.let_go(error, grace)
                await self.changeover.open_or_say(error.message)
                self.changeover.settled.set()
            else:
                await self.changeover.open(error.message)
                if self.changeover.connected is connected:
                    await self.changeover.let_go(error, grace)
        self._wiring.on_change()
        self._retry()
