"""One token as the daemon uses it: work is submitted, a host process does it, and how the token is can be read here.

How hosts come and go is in `kmsd.hsm.hosting`; who waits for what is in `kmsd.hsm.queue`. Knows nothing of labels of
keys, formats or gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from kmsd.deadline import after, left, within
from kmsd.errors import DeadlineExceeded, KmsdError, Unavailable
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.beside import Beside
from kmsd.hsm.changeover import TokenWiring
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.claims import Claims
from kmsd.hsm.explain import explain
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.hosting import Hosting
from kmsd.hsm.login import Connected
from kmsd.hsm.operation import Operation, definition_of
from kmsd.hsm.pin_guard import PinGuard
from kmsd.hsm.queue import Queue
from kmsd.hsm.vendors.tpm_key_slots import Room
from kmsd.observe.printed import Printed

T = TypeVar("T")
P = TypeVar("P", TokenSession, OpenToken)
Ts = TypeVarTuple("Ts")

Observe = Callable[[Operation, float], None]
"""A function that is told of each operation that a token has done, and how many seconds it took there."""

_LOADING = frozenset({f"C_{what}{part}" for what in ("Encrypt", "Decrypt", "Sign") for part in ("Init", "")})
"""The calls in which tpm2-pkcs11 finds no place for a key: when an operation begins, or not before it is done."""


@dataclass(frozen=True)
class PoolView:
    """The sessions of a token and what they are doing now.

    configured: how many there should be now. most: how many there may be.
    """

    configured: int
    open: int
    busy: int
    stuck: int
    queued: int
    most: int


def ignore(name: Operation, seconds: float) -> None:
    """Observe nothing."""


def _quietly(text: str) -> None:
    pass


def _unheard(line: str, left_out: int) -> None:
    pass


class Hsm:
    """A token. `start` it, then `submit` work to it; `connected` and `error` say how it is.

    hosting: how its processes come and go. beside: what another process sees of it. guard: of its PIN.

    name: its name in the configuration. claims: those of all entries of the configuration.
    read_pin: gives the PIN for each login; raises KmsdError if it cannot.
    on_change: called on the event loop whenever the connection came or went.
    guard: keeps a PIN from being tried again that was refused. observe: told of every operation.
    tell: told, in a sentence, what was done to get at the token. printed: told of what its module prints.
    """

    def __init__(
        self,
        address: TokenAddress,
        read_pin: Callable[[], str | None],
        on_change: Callable[[], None],
        guard: PinGuard | None = None,
        observe: Observe = ignore,
        tell: Callable[[str], None] = _quietly,
        name: str = "token",
        claims: Claims | None = None,
        printed: Printed = _unheard,
    ) -> None:
        self.address = address
        self.guard = guard or PinGuard(address.label, None)
        wiring = TokenWiring(address, read_pin, self.guard, on_change, tell, name, claims or Claims([name]), printed)
        self.hosting = Hosting(wiring, observe)
        self._changeover = self.hosting.changeover
        self.beside = Beside(lambda: self.connected, read_pin, self.guard)

    @property
    def connected(self) -> Connected | None:
        return self._changeover.connected

    @property
    def error(self) -> KmsdError:
        """The reason why the token is down, when it is."""
        return self._changeover.error

    @property
    def available(self) -> bool:
        """Whether it is up, or away for a moment on purpose: calls are answered."""
        return self.connected is not None or not self._changeover.settled.is_set()

    @property
    def refused(self) -> bool:
        """Whether the token will not be tried again before an operator has acted."""
        return self._changeover.refused

    @property
    def name(self) -> str:
        """The token in words, for sentences."""
        return self._changeover.name

    @property
    def label(self) -> str:
        return self.connected.token.label if self.connected else self.address.label

    @property
    def room(self) -> Room | None:
        """The number of keys that this login may use, and those that it uses. None: no bound is known, or the token is
        away."""
        return self._changeover.room

    @property
    def queue(self) -> Queue:
        """The calls that wait for the token."""
        return self._changeover.dispatch.queue

    @property
    def silent(self) -> float:
        """The seconds for which the token has owed an answer without giving any; 0 if it owes none."""
        return self._changeover.dispatch.silent

    def pool_view(self) -> PoolView:
        """Return what the sessions are doing now."""
        sessions, inflight, stuck = self._changeover.dispatch.load
        busy = min(inflight, sessions)
        queued = len(self._changeover.dispatch.queue) + inflight - busy
        wanted = max(self.address.sessions, sessions)
        return PoolView(wanted, sessions, busy, stuck, queued, self.address.most_sessions)

    async def start(self) -> None:
        """Connect once; if that fails, say why in `error` and go on trying in the background."""
        await self.hosting.start()

    async def close(self) -> None:
        """Let go of the token: C_Finalize, and the end of its process. Bounded in time."""
        await self.hosting.close()

    async def settled(self, until: float) -> None:
        """Wait until a host that has gone is replaced, if one is being replaced, but no longer than `until` (of the
        monotonic clock)."""
        if not self._changeover.settled.is_set():
            with contextlib.suppress(DeadlineExceeded):
                async with within(until):
                    await self._changeover.settled.wait()

    def submit(
        self, fn: Callable[[P, *Ts], T], *args: *Ts, timeout: float | None = None, retry: bool = True
    ) -> asyncio.Future[T]:
        """Have an operation done by the token's host: `fn` names it, and is called there.

        timeout: seconds until the future ends with DeadlineExceeded, whatever the token does.
        retry: whether it may be done a second time, in a new session or another host, after a failure of those.
        Raises why the token is down, if it is, and Overloaded. The future may end with CkrError, KeyMissingError,
        KeyAmbiguousError: `explain` puts them into words.
        """
        if self.connected is None:
            raise self.error.again()
        done = definition_of(fn)
        return self._changeover.dispatch.queue.submit(
            done, args, timeout or self.address.timeout, retry and not done.changes
        )

    async def run(self, fn: Callable[[P, *Ts], T], *args: *Ts, timeout: float | None = None, retry: bool = True) -> T:
        """Do what `submit` does, awaited, with every failure as a KmsdError. Waits for the first attempt to connect,
        and for a host that is being replaced, all within `timeout`."""
        until = after(timeout or self.address.timeout)
        if self.connected is None:
            if not self.hosting.attempted.is_set():
                with contextlib.suppress(DeadlineExceeded):
                    async with within(until):
                        await self.hosting.attempted.wait()
            await self.settled(until)
        try:
            return await self.submit(fn, *args, timeout=left(until), retry=retry)
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            raise self.explain(error) from error

    def forget_handles(self, gone: frozenset[bytes]) -> None:
        """Forget the handles of keys. gone: CKA_IDs of keys that are not as they were, but for their labels."""
        if self.connected is not None:
            self.connected.host.tell(definition_of(TokenSession.forget), (gone,))

    async def look(self, fn: Callable[[OpenToken, *Ts], T], *args: *Ts, timeout: float = 5.0) -> T:
        """Have an operation done that needs no login, whether the token is up or not. Raises KmsdError."""
        if self.connected is not None:
            return await self.run(fn, *args, timeout=timeout)
        result: T = await self.hosting.look(definition_of(fn), args, timeout)
        return result

    def try_soon(self) -> None:
        """Try a token that is away at once, because an operator has reloaded kmsd; one attempt however often that is
        said.

        A PIN that was refused is tried once more if the token had accepted it before.
        """
        self.guard.allow("reload")
        self.hosting.hurry()

    async def unlock(self, timeout: float) -> bool:
        """Log in at an operator's word, with the PIN that is configured now even if it was refused: one attempt, which
        those who ask at the same time share. Returns whether it was needed. Raises why the token is not up after it:
        Denied if the PIN was refused."""
        if self.connected is not None:
            return False
        try:
            async with asyncio.timeout(timeout):
                failed = await self.hosting.unlock()
        except TimeoutError as error:
            raise Unavailable(
                f"{self.address} does not answer", "kmsd goes on trying; kmsctl status shows how"
            ) from error
        if failed is not None:
            raise failed.again()
        return True

    def explain(self, error: CkrError | KeyMissingError | KeyAmbiguousError) -> KmsdError:
        """Put a failure of the token into words."""
        if isinstance(error, CkrError) and error.name == "CKR_GENERAL_ERROR":
            if self._changeover.care.ailment is not None:
                return self._changeover.care.ailment.again()
            room = self.room
            if room is not None and room.crowded and error.function in _LOADING:
                return room.error(self.name)
        return explain(error, self.name)
