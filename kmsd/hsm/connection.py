"""The connection to one token: found, logged in, lost, found again, without the process ending.

    down --connect--> up --(an operation fails and a probe fails too)--> down --connect--> up ...

Most modules show a lost token's return, and keys made elsewhere, only after they were initialised anew. That is a
stop-the-world step: C_Finalize crashes modules that another thread is inside of, and it takes every token of the
module with it. So the tokens of one module are neighbours: they share its control thread, one that wants the
module anew drains the others too, and they come back by themselves.

Knows nothing of labels of keys, formats or gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar, TypeVarTuple

from kmsd.deadline import after, left, within
from kmsd.errors import Conflict, DeadlineExceeded, Denied, KmsdError, Misconfigured, Unavailable
from kmsd.hsm import tpm2
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.explain import explain
from kmsd.hsm.findings import Elsewhere
from kmsd.hsm.module import MechanismView, Module, SlotView, TokenView
from kmsd.hsm.opening import Opener, PinRefused
from kmsd.hsm.pool import Observe, Pool, PoolView, ignore, unexpected
from kmsd.hsm.quirks import Quirks
from kmsd.hsm.room import Room
from kmsd.hsm.session import KeyAmbiguousError, KeyMissingError, TokenSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RETRY_FIRST: Final = 0.5
_RETRY_MOST: Final = 10.0
_BELIEVED_AFTER: Final = 10.0
"""Seconds from a login until an operation that fails is believed although random numbers work."""
_DRAIN_SECONDS: Final = 5.0
_LOADING: Final = frozenset({f"C_{what}{part}" for what in ("Encrypt", "Decrypt", "Sign") for part in ("Init", "")})
"""Where tpm2-pkcs11 finds no place for a key: when an operation begins, or not before it is done."""
_TORN_PAUSES: Final = (0.02, 0.05, 0.1)
"""Seconds between the attempts of a connection that was given up on purpose: SoftHSM shows no token for a moment while
another process logs in, for it lets go of the token's file before that is whole again."""
_ASK_PAUSE: Final = 2.0
"""Seconds between two times that an ailing token is asked what ails it."""
_ANEW_FIRST: Final = 30.0
_ANEW_MOST: Final = 600.0
"""Seconds between two times that a token which is not to be found stops its neighbours, to look with a new module."""


@dataclass(frozen=True)
class Connected:
    """A token that is in use."""

    module: Module
    slot_id: int
    token: TokenView
    pool: Pool
    mechanisms: frozenset[str]
    quirks: Quirks
    since: float
    """Of the monotonic clock."""
    gcm_refused: str = ""
    gcm_unauthenticated: bool = False
    """Why AES-GCM is not used although the token lists it."""
    keys_most: int | None = None
    """Distinct keys that this login may use; None: no bound."""


def _quietly(text: str) -> None:
    pass


class Neighbours:
    """The tokens that are reached through one module."""

    def __init__(self) -> None:
        # One thread for everything that is rare and may hang: loading, logging in, listing slots.
        self.control = ThreadPoolExecutor(1, thread_name_prefix="hsm-control")
        self.lock = asyncio.Lock()
        self.members: list[Hsm] = []
        self.open = 0


class Hsm:
    """One token. `start` it, then `submit` work to it; `up` and `error` say how it is.

    name: in the configuration. read_pin: gives the PIN at each login; raises KmsdError if it cannot.
    on_change: called on the event loop whenever the connection came or went.
    observe: told of every operation of the token, on the workers' threads.
    tell: told, in a sentence, what was done to get at the token.
    """

    def __init__(
        self,
        address: TokenAddress,
        read_pin: Callable[[], str | None],
        on_change: Callable[[], None],
        neighbours: Neighbours | None = None,
        observe: Observe = ignore,
        tell: Callable[[str], None] = _quietly,
    ) -> None:
        self.address = address
        self.error: KmsdError = Unavailable(f"{address} is not connected yet", "try again in a moment")
        self._opener = Opener(address, read_pin)
        self._on_change = on_change
        self._observe = observe
        self._tell = tell
        self._neighbours = neighbours or Neighbours()
        self._neighbours.members.append(self)
        self._neighbours.open += 1
        self._connected: Connected | None = None
        self._draining: Pool | None = None
        self._attempted = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._reconnecting = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._unlocking: asyncio.Task[KmsdError | None] | None = None
        self._draining_since = 0.0
        self._returning: asyncio.Task[None] | None = None
        self._suspecting: asyncio.Task[None] | None = None
        self._refused = False
        self._anew = monotonic()
        self._anew_pause = _ANEW_FIRST
        self._closed = False
        self._crowded_at: Connected | None = None
        """The connection of which it was told that there is no place for another key."""
        self._swept = False
        """Whether what killed programs left in the token was thrown out since the last login."""
        self._ailment: KmsdError | None = None
        self._ailing = -1e9
        self._stale = False
        """Whether the module shows a state of this token that is not to be believed."""

    @property
    def connected(self) -> Connected | None:
        return self._connected

    @property
    def available(self) -> bool:
        """Whether it is up, or away for a moment on purpose: calls are answered."""
        return self._connected is not None or not self._settled.is_set()

    @property
    def refused(self) -> bool:
        """Whether the token will not be tried again before an operator has acted."""
        return self._refused

    @property
    def name(self) -> str:
        """The token in words, for sentences."""
        if self._connected is not None:
            return f"token {self._connected.token.label!r}"
        return str(self.address)

    @property
    def label(self) -> str:
        return self._connected.token.label if self._connected else self.address.label

    @property
    def room(self) -> Room | None:
        """How many keys this login may use, and uses. None: no bound is known, or the token is away."""
        connected = self._connected
        if connected is None or connected.keys_most is None:
            return None
        return Room(connected.keys_most, tuple(connected.module.used.get(connected.slot_id, ())))

    def pool_view(self) -> PoolView:
        pool = self._connected.pool if self._connected else self._draining
        return pool.view() if pool else PoolView(self.address.sessions, 0, 0, 0, 0)

    async def start(self) -> None:
        """Connect once; if that fails, say why in `error` and go on trying in the background."""
        await self._attempt()
        if self._connected is None:
            self._retry()

    async def close(self) -> bool:
        """Let go of the token: drain, C_Finalize. Bounded in time; a hung module is left as it is: False."""
        self._closed = True
        for task in (self._work, self._returning, self._unlocking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        clean = False
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS + 2), self._neighbours.lock:
                self._let_go(Unavailable("kmsd is stopping", "retry against the next kmsd"))
                clean = await self._drained()
                # Never with a worker still inside the module, a neighbour's included: C_Finalize would crash.
                if clean:
                    await self._on_control(self._opener.close)
                    self._neighbours.members.remove(self)
                    if not self._neighbours.members:
                        await self._on_control(self._finalize)
        self._neighbours.open -= 1
        if not self._neighbours.open:
            self._neighbours.control.shutdown(wait=False, cancel_futures=True)
        return clean

    async def settled(self, until: float) -> None:
        """While the module is being initialised anew on purpose, wait for the end of it, at most `until` then (of the
        monotonic clock)."""
        if not self._settled.is_set():
            with contextlib.suppress(DeadlineExceeded):
                async with within(until):
                    await self._settled.wait()

    def submit(
        self,
        fn: Callable[[TokenSession, *Ts], T],
        *args: *Ts,
        timeout: float | None = None,
        retry: bool = True,
    ) -> asyncio.Future[T]:
        """Run fn(session, *args) on a worker; see Pool.submit. Raises why the token is down, if it is.

        The future may end with CkrError, KeyMissingError, KeyAmbiguousError: `explain` puts them into words.
        """
        connected = self._connected
        if connected is None:
            raise self.error.again()
        return connected.pool.submit(fn, *args, timeout=timeout or self.address.timeout, retry=retry)

    async def run(
        self,
        fn: Callable[[TokenSession, *Ts], T],
        *args: *Ts,
        timeout: float | None = None,
        retry: bool = True,
    ) -> T:
        """`submit`, awaited, with every failure as a KmsdError. Waits for the first attempt to connect, and for a
        module that is being initialised anew, all within `timeout`."""
        until = after(timeout or self.address.timeout)
        if self._connected is None:
            if not self._attempted.is_set():
                with contextlib.suppress(DeadlineExceeded):
                    async with within(until):
                        await self._attempted.wait()
            await self.settled(until)
        try:
            return await self.submit(fn, *args, timeout=left(until), retry=retry)
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            raise self.explain(error) from error
        except KmsdError:
            raise
        except Exception as error:
            raise unexpected(error) from error

    async def run_rw(self, fn: Callable[[TokenSession, *Ts], T], *args: *Ts, timeout: float | None = None) -> T:
        """`run` with a read-write session made for this one call, never repeated by itself."""
        until = after(timeout or 30.0)
        await self.settled(until)
        connected = self._connected
        if connected is None:
            raise self.error.again()

        def with_rw(_: TokenSession) -> T:
            session = TokenSession(connected.module, connected.slot_id, rw=True)
            try:
                return fn(session, *args)
            finally:
                with contextlib.suppress(CkrError):
                    session.close()

        return await self.run(with_rw, timeout=left(until), retry=False)

    def forget_handles(self, gone: frozenset[bytes]) -> None:
        """gone: CKA_IDs of keys that are not as they were, but for their labels."""
        if self._connected is not None:
            self._connected.pool.forget_handles(gone)

    async def slots(self, timeout: float = 5.0) -> list[SlotView]:
        """All slots of the module, with or without the token being up. Raises KmsdError."""

        return await self.look(Module.slots, timeout)

    async def look(self, fn: Callable[[Module], T], timeout: float = 5.0) -> T:
        """fn(module) on the control thread, whether the token is up or not, and without a login. Raises KmsdError."""

        def look() -> T:
            idle = self._opener.module is None or not self._opener.module.initialized
            module = self._opener.load()
            try:
                return fn(module)
            finally:
                if idle:
                    # The next attempt to connect must see what is there then, not what was there now.
                    module.finalize()

        return await self._ask(look, timeout)

    async def elsewhere(self) -> Elsewhere | None:
        """Another program's hand on the token, with the PIN that this login was made with; None without such a PIN."""
        connected = self._connected
        return None if connected is None else await self._on_control(lambda: self._opener.elsewhere(connected.token))

    @property
    def misses_objects(self) -> bool:
        """Whether the token is connected through a module that is known to miss objects made by other processes."""
        return self._connected is not None and self._connected.quirks.misses_objects

    async def has_key(self, cka_id: bytes, timeout: float) -> bool:
        """Ask another process whether the token has a private object with this CKA_ID: for a module that misses some.
        False as well if that cannot be found out within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                other = await self.elsewhere()
                return other is not None and await asyncio.to_thread(other, "find", cka_id.hex())
        except (TimeoutError, OSError, ValueError):
            return False

    async def mechanisms(self, timeout: float = 5.0) -> tuple[MechanismView, ...]:
        """What the token lists. Raises KmsdError, if it is away among others."""
        connected = self._connected
        if connected is None:
            raise self.error.again()
        return await self._ask(lambda: connected.module.mechanisms(connected.slot_id), timeout)

    async def _ask(self, fn: Callable[[], T], timeout: float) -> T:
        try:
            async with asyncio.timeout(timeout):
                return await self._on_control(fn)
        except TimeoutError as error:
            raise Unavailable("the PKCS#11 module does not answer", "check the token and the network to it") from error
        except CkrError as error:
            raise self.explain(error) from error

    @property
    def hung(self) -> float:
        """Seconds since which a call that has not come back keeps everything from going on: it keeps the module from
        being initialised anew, or every session has one. 0 if none does."""
        since = None
        if self._draining is not None and self._draining.inside:
            since = self._draining_since
        elif self._connected is not None:
            since = self._connected.pool.stuck_since
        return 0.0 if since is None else monotonic() - since

    def try_soon(self) -> None:
        """An operator has reloaded kmsd: a token that is away is tried at once, one attempt however often that is said.

        A PIN that was refused is tried once more if the token had accepted it before.
        """
        self._opener.allow("reload")
        self._refused = False
        self._anew_pause = _ANEW_FIRST
        if self._connected is None:
            self._hurry.set()
            self._retry()

    async def unlock(self, timeout: float) -> bool:
        """Log in at an operator's word, with the PIN that is configured now even if it was refused: one attempt, which
        those who ask at the same time share. Returns whether it was needed. Raises why the token is not up after it:
        Denied if the PIN was refused."""
        if self._connected is not None:
            return False
        if self._unlocking is None or self._unlocking.done():
            self._opener.allow("unlock")
            self._unlocking = asyncio.create_task(self._unlock(), name="hsm-unlock")
        try:
            async with asyncio.timeout(timeout):
                failed = await asyncio.shield(self._unlocking)
        except TimeoutError as error:
            raise Unavailable(
                f"{self.address} does not answer", "kmsd goes on trying; kmsctl status shows how"
            ) from error
        if failed is not None:
            raise failed.again()
        return True

    async def _unlock(self) -> KmsdError | None:
        self._refused = False
        await self._attempt()
        if self._connected is not None:
            return None
        self._retry()
        return Denied(self.error.message, self.error.hint) if self._refused else self.error

    async def reconnect(self, why: str) -> bool:
        """Drop the connection, initialise the module anew, connect, upon a suspicion that the module shows a state that
        is not the token's. Calls wait for it. Returns whether the token is up."""
        async with self._reconnecting:
            self._refused = False
            if self._work is not None:
                self._work.cancel()
                self._work = None
            self._settled.clear()
            try:
                await self._disconnect(Unavailable(f"{self.name} is being reconnected: {why}", "try again"))
                await self._attempt()
                for pause in _TORN_PAUSES:
                    if self._connected is not None or self._refused or self._draining is not None:
                        break
                    await asyncio.sleep(pause)
                    await self._attempt()
            finally:
                self._settled.set()
            if self._connected is None:
                self._retry()
            return self._connected is not None

    async def without_module(self, fn: Callable[[str | None], T]) -> T:
        """Run fn(PIN) on the control thread while the module is finalised, and connect again: for programs that change
        the token behind it. Calls wait meanwhile. Raises Conflict if a neighbour cannot be stopped."""
        async with self._reconnecting:
            self._settled.clear()
            try:
                await self._disconnect(Unavailable(f"{self.name} is being worked on", "try again"))
                async with self._neighbours.lock:
                    if self._draining is not None or self._others():
                        raise Conflict(f"the module of {self.name} is in use and cannot be stopped", "try again")
                    return await self._on_control(lambda: fn(self._opener.pin()))
            finally:
                await self._attempt()
                self._settled.set()
                if self._connected is None:
                    self._retry()

    def explain(self, error: CkrError | KeyMissingError | KeyAmbiguousError) -> KmsdError:
        if isinstance(error, CkrError) and error.name == "CKR_GENERAL_ERROR":
            if self._ailment is not None:
                return self._ailment.again()
            room = self.room
            if room is not None and room.crowded and error.function in _LOADING:
                return room.error(self.name)
        return explain(error, self.name)

    # The rest runs on the event loop, one attempt at a time.

    async def _on_control(self, fn: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._neighbours.control, fn)

    def _retry(self) -> None:
        if self._connected is None:
            # What was given up on purpose has not come back.
            self._on_change()
        if self._refused or self._closed or (self._work is not None and not self._work.done()):
            return
        self._work = asyncio.create_task(self._keep_trying(), name="hsm-connect")

    async def _keep_trying(self) -> None:
        pause = _RETRY_FIRST
        while self._connected is None and not self._refused:
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
                pause = _RETRY_FIRST
            except TimeoutError:
                pause = min(pause * 2, _RETRY_MOST)
            self._hurry.clear()
            await self._attempt()

    async def _attempt(self) -> None:
        async with self._neighbours.lock:
            if self._connected is not None:
                return
            failed = await self._open()
            if failed == "CKR_GENERAL_ERROR" and await self._swept_out():
                failed = await self._open()
            if failed == "CKR_GENERAL_ERROR" and not self.holds and not self._others():
                await self._look_for_ailment()
                self.error = self._ailment or self.error
        self._attempted.set()
        self._on_change()

    async def _open(self) -> str:
        """Connect, or say in `error` why not. Returns the name of what the token answered, empty if it was no such
        failure. A PIN that it refused is none."""
        failed = ""
        try:
            await self._be_drained()
            if self._stale or self._look_anew():
                await self._module_anew()
            opened = await self._on_control(self._opener.open)
        except PinRefused as error:
            self._refused = True
            self.error = error.again()
        except KmsdError as error:
            self.error = error.again()
            failed = error.__cause__.name if isinstance(error.__cause__, CkrError) else ""
        except Exception as error:  # noqa: BLE001  a module may do anything; kmsd stays up and says so
            self.error = unexpected(error)
        else:
            self._connected = Connected(
                opened.module,
                opened.slot_id,
                opened.token,
                self._pool(opened.module, opened.slot_id, opened.sessions),
                opened.mechanisms,
                opened.quirks,
                monotonic(),
                opened.gcm_refused,
                opened.gcm_unauthenticated,
                None if tpm2.managed() else opened.quirks.keys_per_login,
            )
            self._anew_pause = _ANEW_FIRST
            self._ailment = None
            self._swept = False
        if not self.holds and not self._others():
            # The next attempt begins with a module that knows nothing of this one.
            await self._on_control(self._finalize)
        return failed

    async def _swept_out(self) -> bool:
        """Whether a TPM that refused the login was full of what a killed program has left, and is empty now.

        Once for each login, and with the module finalised: whatever is loaded then is nobody's. Never through a
        resource manager, for there it may be somebody's.
        """
        row = self._opener.quirks()
        if row is None or row.generates_through != "tpm2_ptool" or self._swept or self.holds or self._others():
            return False
        try:
            self._swept = await self._on_control(tpm2.flush)
        except Misconfigured as error:
            what = f"{self.error.message}; a killed program may have left the TPM full, but {error.message}"
            self.error = Unavailable(what, error.hint)
        except KmsdError:
            pass  # the TPM does not answer the tools either
        if self._swept:
            self._tell(
                "the login failed, and the TPM, which no resource manager shares out, held what a killed program had "
                "loaded: that was thrown out, and the login is tried once more"
            )
        return self._swept

    def _pool(self, module: Module, slot_id: int, sessions: list[TokenSession]) -> Pool:
        return Pool(
            lambda: TokenSession(module, slot_id),
            sessions,
            loop=asyncio.get_running_loop(),
            queue=self.address.queue,
            stuck_after=self.address.stuck_after,
            on_lost=self._suspect,
            observe=self._observe,
        )

    def _suspect(self, error: CkrError) -> None:
        """An operation failed twice. A probe decides: a wrong GCM tag looks the same on some tokens."""
        if self._suspecting is None and self._connected is not None:
            self._suspecting = asyncio.create_task(self._probe(error, self._connected), name="hsm-probe")

    async def _probe(self, cause: CkrError, connected: Connected) -> None:
        try:
            try:
                # C_GenerateRandom is the honest probe: it needs the device, and no key.
                await connected.pool.submit(
                    lambda session: session.random(8), timeout=self.address.timeout, retry=False
                )
                if await self._only_crowded(connected):
                    return
                await self._look_for_ailment()
                # Where that proves nothing a failed operation is believed, but not again and again: one key may be of
                # no use while the others are.
                if (
                    self._ailment is not None
                    or connected.quirks.random_is_proof
                    or monotonic() - connected.since < _BELIEVED_AFTER
                ):
                    return
                failed: CkrError | KmsdError = cause
            except (CkrError, KmsdError) as error:
                failed = error
            if self._connected is connected:
                what = cause.name if isinstance(failed, CkrError) else f"{cause.name}, then no answer"
                await self._disconnect(
                    Unavailable(f"{self.name} was lost ({what})", "kmsd reconnects by itself; check the token")
                )
                self._retry()
        finally:
            self._suspecting = None

    async def _only_crowded(self, connected: Connected) -> bool:
        """Whether there was no place for a key, and those that have theirs work: then nothing is lost."""
        room = self.room
        first = next((cka_id for cka_id, kind in room.inside if kind == "aes"), None) if room and room.crowded else None
        if room is None or first is None:
            return False
        try:
            await connected.pool.submit(
                lambda session: session.encrypt_cbc(first, bytes(16), bytes(16)),
                timeout=self.address.timeout,
                retry=False,
            )
        except (CkrError, KeyMissingError, KeyAmbiguousError):
            return False
        if self._crowded_at is not connected:
            self._crowded_at = connected
            self._tell(room.error(self.name).sentence())
        return True

    async def _look_for_ailment(self) -> None:
        """Ask a token that is there, and does nothing with its keys, what ails it; now and then at the most."""
        beside = self._connected is not None
        row = self._connected.quirks if self._connected else self._opener.quirks()
        if row is None or row.generates_through != "tpm2_ptool" or monotonic() - self._ailing < _ASK_PAUSE:
            return
        self._ailment = await asyncio.to_thread(tpm2.ailment, self.label, beside=beside)
        self._ailing = monotonic()

    async def _disconnect(self, why: KmsdError) -> None:
        """Let go of the token, and have the module begin anew for the next attempt."""
        async with self._neighbours.lock:
            self._let_go(why)
            self._stale = True
            with contextlib.suppress(Unavailable):
                await self._be_drained()
                await self._module_anew()

    def _let_go(self, why: KmsdError) -> None:
        connected, self._connected = self._connected, None
        self.error = why
        if connected is not None:
            self._draining, self._draining_since = connected.pool, monotonic()
            self._on_change()

    async def _drained(self) -> bool:
        """Wait until no worker of this token is inside the module, some seconds at the most."""
        if self._draining is not None and await self._draining.drain(_DRAIN_SECONDS):
            self._draining = None
        return self._draining is None

    async def _be_drained(self) -> None:
        """Raises Unavailable while a call hangs in the module."""
        if not await self._drained():
            self.error = Unavailable(
                f"a call into the PKCS#11 module has not come back for over {self.hung:.0f} s",
                "kmsd goes on waiting, and ends by itself when that has lasted for health.give_up_after",
            )
            raise self.error.again()

    def _others(self) -> list[Hsm]:
        """The neighbours that use the module now."""
        return [each for each in self._neighbours.members if each is not self and each.holds]

    @property
    def holds(self) -> bool:
        """Whether this token's sessions live in the module."""
        return self._connected is not None or self._draining is not None

    def _look_anew(self) -> bool:
        """Whether it is time to look for the token with a new module although neighbours must stop for it."""
        if not self._others() or monotonic() - self._anew < self._anew_pause:
            return False
        self._anew_pause = min(self._anew_pause * 2, _ANEW_MOST)
        return True

    async def _module_anew(self) -> None:
        """Finalise the module; neighbours are drained before and come back after. The lock is held, and this token
        is drained. A neighbour whose call hangs prevents it: then the module stays as it is."""
        self._anew = monotonic()
        self._stale = False
        others = self._others()
        for other in others:
            other.pause(f"its module begins anew for {self.address}")
        drained = [await other.be_still() for other in others]
        if all(drained):
            await self._on_control(self._finalize)
            for member in self._neighbours.members:
                member.forget()
        else:
            await self._on_control(self._opener.close)
        for other in others:
            other.come_back()

    def pause(self, why: str) -> None:
        """A neighbour needs the module anew: calls wait until this token is back."""
        self._settled.clear()
        self._let_go(Unavailable(f"{self.name} is being reconnected: {why}", "try again"))

    async def be_still(self) -> bool:
        return await self._drained()

    def come_back(self) -> None:
        self._returning = asyncio.create_task(self._return(), name="hsm-return")

    async def _return(self) -> None:
        try:
            await self._attempt()
        finally:
            self._settled.set()
        self._retry()

    def forget(self) -> None:
        self._opener.forget()

    # On the control thread.

    def _finalize(self) -> None:
        self._opener.forget()
        if self._opener.module is not None:
            with contextlib.suppress(CkrError):
                self._opener.module.finalize()
