"""The connection to one token: found, logged in, lost, found again, without the process ending.

    down --connect--> up --(an operation fails and a probe fails too)--> down --connect--> up ...

A wrong PIN is never tried twice: tokens lock. Then the connection stays down until `reconnect` is called
with an operator's correction behind it. Re-initialising the module is a stop-the-world step: the workers are
drained first, because C_Finalize crashes modules that another thread is inside of.

Knows nothing of labels of keys, formats or gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar, TypeVarTuple

import pkcs11

from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.hsm import module as modules
from kmsd.hsm.address import TokenAddress, choose_slot
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.explain import explain
from kmsd.hsm.module import Module, SlotView, TokenView, can_gcm, token_view
from kmsd.hsm.pool import Pool, PoolView, unexpected
from kmsd.hsm.session import KeyAmbiguousError, KeyMissingError, TokenSession

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RETRY_FIRST: Final = 0.5
_RETRY_MOST: Final = 10.0
_DRAIN_SECONDS: Final = 5.0
_PIN_ERRORS: Final = frozenset(
    {
        "CKR_PIN_INCORRECT",
        "CKR_PIN_LOCKED",
        "CKR_PIN_EXPIRED",
        "CKR_PIN_INVALID",
        "CKR_PIN_LEN_RANGE",
        "CKR_USER_PIN_NOT_INITIALIZED",
    }
)


@dataclass(frozen=True)
class Connected:
    """A token that is in use."""

    module: Module
    slot_id: int
    token: TokenView
    pool: Pool


class PinRefused(Misconfigured):
    """The token refused the PIN, or is about to lock. Nothing is tried again until an operator has acted."""


class Hsm:
    """One token. `start` it, then `submit` work to it; `up` and `error` say how it is.

    read_pin: gives the PIN at each login; raises KmsdError if it cannot.
    on_change: called on the event loop whenever the connection came or went.
    """

    def __init__(
        self, address: TokenAddress, read_pin: Callable[[], str | None], on_change: Callable[[], None]
    ) -> None:
        self.address = address
        self.error: KmsdError = Unavailable(f"{address} is not connected yet", "wait a moment")
        self._read_pin = read_pin
        self._on_change = on_change
        self._connected: Connected | None = None
        self._module: Module | None = None
        self._login: TokenSession | None = None
        self._draining: Pool | None = None
        # One thread for everything that is rare and may hang: loading, logging in, listing slots.
        self._control = ThreadPoolExecutor(1, thread_name_prefix="hsm-control")
        self._lock = asyncio.Lock()
        self._attempted = asyncio.Event()
        self._reconnecting = asyncio.Lock()
        self._refused_pin = b""
        self._work: asyncio.Task[None] | None = None
        self._suspecting: asyncio.Task[None] | None = None
        self._refused = False

    @property
    def connected(self) -> Connected | None:
        return self._connected

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
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS + 2):
                await self._disconnect(Unavailable("kmsd is stopping", "retry against the next kmsd"))
                # Never with a worker still inside the module: C_Finalize would crash.
                if self._draining is None:
                    await asyncio.get_running_loop().run_in_executor(self._control, self._finalize)
                    self._control.shutdown(wait=False, cancel_futures=True)
                    return True
        self._control.shutdown(wait=False, cancel_futures=True)
        return False

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
        """`submit`, awaited, with every failure as a KmsdError. Waits for the first attempt to connect."""
        if self._connected is None and not self._attempted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout or self.address.timeout):
                    await self._attempted.wait()
        try:
            return await self.submit(fn, *args, timeout=timeout, retry=retry)
        except (CkrError, KeyMissingError, KeyAmbiguousError) as error:
            raise self.explain(error) from error
        except KmsdError:
            raise
        except Exception as error:
            raise unexpected(error) from error

    async def run_rw(self, fn: Callable[[TokenSession, *Ts], T], *args: *Ts, timeout: float | None = None) -> T:
        """`run` with a read-write session made for this one call, never repeated by itself."""
        connected = self._connected
        if connected is None:
            raise self.error.again()

        def with_rw(_: TokenSession) -> T:
            session = TokenSession(connected.module, connected.module.token(connected.slot_id), rw=True)
            try:
                return fn(session, *args)
            finally:
                with contextlib.suppress(CkrError):
                    session.close()

        return await self.run(with_rw, timeout=timeout or 30.0, retry=False)

    def forget_handles(self) -> None:
        if self._connected is not None:
            self._connected.pool.forget_handles()

    async def slots(self, timeout: float = 5.0) -> list[SlotView]:
        """All slots of the module, with or without the token being up. Raises KmsdError."""

        def look() -> list[SlotView]:
            idle = self._module is None or not self._module.initialized
            module = modules.load(self._module_path())
            try:
                return module.slots()
            finally:
                if idle:
                    # The next attempt to connect must see what is there then, not what was there now.
                    module.finalize()

        try:
            async with asyncio.timeout(timeout):
                return await asyncio.get_running_loop().run_in_executor(self._control, look)
        except TimeoutError as error:
            raise Unavailable("the PKCS#11 module does not answer", "check the token and the network to it") from error
        except CkrError as error:
            raise self.explain(error) from error

    async def reconnect(self, why: str) -> bool:
        """Drop the connection, initialise the module anew, connect. An operator's correction, or a suspicion
        that the module shows a state that is not the token's. Returns whether the token is up."""
        async with self._reconnecting:
            self._refused = False
            if self._work is not None:
                self._work.cancel()
                self._work = None
            await self._disconnect(Unavailable(f"{self.name} is being reconnected: {why}", "try again"))
            await self._attempt()
            if self._connected is None:
                self._retry()
            return self._connected is not None

    def explain(self, error: CkrError | KeyMissingError | KeyAmbiguousError) -> KmsdError:
        return explain(error, self.name)

    # The rest runs on the event loop, one attempt at a time.

    def _retry(self) -> None:
        if self._refused or (self._work is not None and not self._work.done()):
            return
        self._work = asyncio.create_task(self._keep_trying(), name="hsm-connect")

    async def _keep_trying(self) -> None:
        pause = _RETRY_FIRST
        while self._connected is None and not self._refused:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_MOST)
            await self._attempt()

    async def _attempt(self) -> None:
        async with self._lock:
            if self._connected is not None:
                return
            try:
                if self._draining is not None:
                    await self._finish_draining()
                loop = asyncio.get_running_loop()
                module, slot_id, view, sessions = await loop.run_in_executor(self._control, self._open)
            except PinRefused as error:
                self._refused = True
                self.error = error.again()
            except KmsdError as error:
                self.error = error.again()
            except Exception as error:  # noqa: BLE001  a module may do anything; kmsd stays up and says so
                self.error = unexpected(error)
            else:
                self._connected = Connected(module, slot_id, view, self._pool(loop, module, slot_id, sessions))
        self._attempted.set()
        self._on_change()

    def _pool(
        self, loop: asyncio.AbstractEventLoop, module: Module, slot_id: int, sessions: list[TokenSession]
    ) -> Pool:
        return Pool(
            lambda: TokenSession(module, module.token(slot_id)),
            sessions,
            loop=loop,
            queue=self.address.queue,
            stuck_after=self.address.stuck_after,
            on_lost=self._suspect,
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
                return
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

    async def _disconnect(self, why: KmsdError) -> None:
        async with self._lock:
            connected, self._connected = self._connected, None
            self.error = why
            if connected is not None:
                self._on_change()
                self._draining = connected.pool
            if self._draining is not None:
                with contextlib.suppress(Unavailable):
                    await self._finish_draining()

    async def _finish_draining(self) -> None:
        pool = self._draining
        if pool is None:
            return
        began = monotonic()
        if not await pool.drain(_DRAIN_SECONDS):
            self.error = Unavailable(
                f"a call into the PKCS#11 module has not come back for over {monotonic() - began:.0f} s",
                "kmsd goes on waiting; if the token is well again and this stays, restart kmsd",
            )
            raise self.error.again()
        self._draining = None
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._control, self._finalize)

    def _finalize(self) -> None:
        self._login = None
        if self._module is not None:
            with contextlib.suppress(CkrError):
                self._module.finalize()

    # On the control thread.

    def _module_path(self) -> str:
        if self.address.softhsm and not self.address.module:
            return modules.find_softhsm()
        return self.address.module

    def _open(self) -> tuple[Module, int, TokenView, list[TokenSession]]:
        if self._login is not None:
            # Left by an attempt whose waiter has gone: nobody holds its sessions.
            self._finalize()
        module = self._module = modules.load(self._module_path())
        try:
            slot = choose_slot(module.slots(), self.address, module.path)
            token = module.token(slot.slot_id)
            view = token_view(token)
            _check_gcm(token, view)
            # Held as long as the login: a token may log out with its last session.
            self._login = TokenSession(module, token)
            if "LOGIN_REQUIRED" in view.flags:
                self._log_in(module, self._login, view)
            wanted = self.address.sessions if module.multithreaded else 1
            sessions = [TokenSession(module, token)]
            with contextlib.suppress(CkrError):
                # A token with few sessions serves with those it has.
                sessions.extend(TokenSession(module, token) for _ in range(wanted - 1))
        except BaseException as error:
            # The next attempt begins with a module that knows nothing of this one.
            self._finalize()
            if isinstance(error, CkrError):
                raise explain(error, str(self.address)) from error
            raise
        return module, slot.slot_id, view, sessions

    def _log_in(self, module: Module, session: TokenSession, view: TokenView) -> None:
        name = f"token {view.label!r}"
        if "USER_PIN_LOCKED" in view.flags:
            raise PinRefused(f"the user PIN of {name} is locked", "unlock it with the SO PIN, then reload kmsd")
        if "USER_PIN_FINAL_TRY" in view.flags:
            raise PinRefused(
                f"one more wrong PIN would lock {name}, so kmsd does not try its own",
                "log in once with the right PIN by hand (pkcs11-tool --login), correct kmsd's PIN, then reload kmsd",
            )
        pin = self._read_pin()
        if pin is None:
            raise PinRefused(
                f"{name} needs a PIN and none is configured",
                "name a file that holds it with --p11-pin-file, then restart kmsd",
            )
        digest = hashlib.sha256(pin.encode()).digest()
        if hmac.compare_digest(digest, self._refused_pin):
            raise _pin_refused(name, "as before")
        try:
            module.cryptoki.login(session.handle, pin)
        except CkrError as error:
            if error.name in _PIN_ERRORS:
                # Kept here, on the one thread that logs in, so that no cancelled waiter can lose it.
                self._refused_pin = digest
                raise _pin_refused(name, error.name) from error
            raise
        self._refused_pin = b""


def _check_gcm(token: pkcs11.Token, view: TokenView) -> None:
    if not can_gcm(token):
        raise Misconfigured(
            f"token {view.label!r} cannot do AES-GCM", "use a token that can; this version knows nothing else"
        )


def _pin_refused(token: str, why: str) -> PinRefused:
    return PinRefused(
        f"{token} refused the PIN ({why}); kmsd does not try it again",
        "correct the file named by --p11-pin-file, then reload kmsd (SIGHUP); a systemd credential needs a restart",
    )
