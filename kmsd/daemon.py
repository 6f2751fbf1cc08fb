"""The composition root: the only place that builds kmsd's objects and wires them together.

hsm -> keyring -> service -> method tables -> two listeners
          `---- health ----'
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import uvloop

from kmsd import __version__, state
from kmsd.config import ConfigError, Loaded, read_pin
from kmsd.crypto import gcm
from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.connection import Hsm
from kmsd.keyring import Keyring
from kmsd.observe import logs
from kmsd.observe.health import Health, HealthView
from kmsd.observe.sdnotify import notify
from kmsd.picture import Picture, Problem
from kmsd.rpc import admin, kms_v1beta1, kms_v2
from kmsd.rpc.call import Call
from kmsd.rpc.listener import Listener
from kmsd.rpc.sockets import SocketPlace
from kmsd.service import LocalService
from kmsd.settings import Settings

log = logs.get_logger("kmsd")

_DRAIN_SECONDS: Final = 5.0
_PR_SET_DUMPABLE: Final = 4
_RELOADABLE: Final = ("log.", "token.pin")
"""What a reload may change; everything else needs a restart and is reported."""


def run(loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    reload: reads the same configuration again, for SIGHUP. on_ready: called once, when both sockets answer.
    """
    logs.configure(loaded.settings.log.format, loaded.settings.log.level)
    _no_core_dumps()
    daemon = Daemon(loaded, reload, on_ready)
    try:
        uvloop.run(daemon.run())
    except KmsdError as error:
        sys.stderr.write(f"kmsd: error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return 2 if isinstance(error, Misconfigured) else 1
    if not daemon.clean:
        # A thread hangs inside the module; Python would wait for it for ever.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _no_core_dumps() -> None:
    """A core dump would hold plaintexts and the PIN; also keeps others of the same user from attaching (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass
class Daemon:
    """One running kmsd."""

    loaded: Loaded
    reload: Callable[[], Loaded]
    on_ready: Callable[[], None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _nudge: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: bool = False
    _pin: str | None = field(default=None, repr=False)
    _withheld: Problem | None = None
    clean: bool = True

    async def run(self) -> None:
        settings = self.loaded.settings
        self._build(settings)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        places = [listener.place for listener in self._listeners]
        try:
            for place in places:
                place.claim()
            for listener in self._listeners:
                await listener.start()
            for warning in self.loaded.warnings:
                log.warning(warning)
            log.info(
                "kmsd is up",
                version=__version__,
                config=str(self.loaded.file or "none"),
                kms=str(settings.kms.socket),
                admin=str(settings.admin.socket),
            )
            # The sockets answer before the token does: kube-apiserver must find them whatever the token is up to.
            self._spawn(self._begin(settings))
            notify(READY="1", STATUS="starting")
            if self.on_ready is not None:
                self.on_ready()
            await stop.wait()
        finally:
            await self._stop(places)

    def _build(self, settings: Settings) -> None:
        token = settings.token
        self._hsm = Hsm(
            TokenAddress(
                module=token.module,
                softhsm=token.provider == "softhsm",
                label=token.label,
                slot=token.slot,
                sessions=token.sessions,
                queue=token.queue,
                timeout=settings.kms.request_timeout,
                stuck_after=settings.health.stuck_after,
            ),
            read_pin=self._read_pin,
            on_change=self._token_changed,
        )
        self._keyring = Keyring(self._hsm, write_label=settings.keys.label, on_change=self._keys_changed)
        self._health = Health(
            self._round_trip,
            interval=settings.health.interval,
            timeout=settings.kms.request_timeout + 1,
            on_change=self._health_changed,
        )
        service = LocalService(
            self._hsm,
            self._keyring,
            self._health,
            write_legacy=settings.keys.write_format == "k8s-kms-plugin",
            fail_closed=settings.kms.on_hsm_loss == "fail-closed",
            remembered=state.recall(settings.state.dir, settings.keys.label),
        )
        front = admin.Admin(
            hsm=self._hsm,
            keyring=self._keyring,
            health=self._health,
            service=service,
            started=time.time(),
            write_format=settings.keys.write_format,
            listeners=lambda: [(str(each.place.path), each.apis) for each in self._listeners],
            problems=self._problems,
        )
        self._listeners = (
            Listener(
                SocketPlace(settings.kms.socket, int(settings.kms.mode, 8), settings.kms.group),
                (kms_v2.table(service), kms_v1beta1.table(service, settings.kms.max_plaintext)),
                apis=(kms_v2.API, kms_v1beta1.API),
                services=(kms_v2.SERVICE, kms_v1beta1.SERVICE),
                timeout=settings.kms.request_timeout,
                observe=_log_call,
            ),
            Listener(
                SocketPlace(settings.admin.socket, 0o660 if settings.admin.group else 0o600, settings.admin.group),
                (front.table(),),
                apis=(admin.API,),
                services=(admin.SERVICE,),
                timeout=60.0,
                observe=_log_call,
            ),
        )

    async def _begin(self, settings: Settings) -> None:
        """Connect, make what is to be made, then look and check for ever."""
        self._spawn(self._health.run())
        await self._hsm.start()
        created = not settings.keys.auto_create
        while True:
            self._nudge.clear()
            if self._hsm.connected is not None:
                try:
                    await self._keyring.look()
                    if not created:
                        await self._auto_create(settings)
                        created = True
                except KmsdError as error:
                    log.debug("look failed", reason=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.keys.refresh):
                    await self._nudge.wait()

    async def _auto_create(self, settings: Settings) -> None:
        wanted: list[tuple[str, str]] = []
        known = state.recall(settings.state.dir, settings.keys.label)
        if self._keyring.picture.write is None and known:
            # Another write key in its place would hide a loss, or a token that is not the right one.
            self._withheld = Problem(
                f"key {known} wrote here before and is not on {self._hsm.name}: --auto-create makes no other",
                f"bring the right token or key back; if it is gone for good: kmsctl keygen {settings.keys.label}",
                fatal=False,
            )
            log.error(self._withheld.message, hint=self._withheld.hint)
        elif self._keyring.picture.write is None:
            wanted.append((settings.keys.label, "aes"))
        if settings.keys.hmac_label:
            wanted.append((settings.keys.hmac_label, "hmac"))
        for label, kind in wanted:
            key, made = await self._keyring.generate(
                label, "aes" if kind == "aes" else "hmac", 256, "", if_not_exists=True
            )
            if made:
                log.info("key made by auto_create", label=label, kind=kind, key_id_sha256=key.key_id_sha256)

    async def _round_trip(self) -> None:
        if not self._keyring.seen or self._keyring.picture.write is None:
            await self._keyring.look_soon()
        timeout = self.loaded.settings.kms.request_timeout
        try:
            await gcm.round_trip(self._hsm, self._keyring.write_key().cka_id, timeout)
        except Unavailable:
            # The key may have been destroyed, or the token be away: a look tells which.
            await self._keyring.look_soon()
            await gcm.round_trip(self._hsm, self._keyring.write_key().cka_id, timeout)

    def _read_pin(self) -> str | None:
        try:
            # Kept until a reload: a file descriptor or a credential may be there to be read only once.
            if self._pin is None:
                self._pin = read_pin(self.loaded.settings.token)
            return self._pin
        except ConfigError as error:
            raise Misconfigured(error.message, error.hint) from error

    def _problems(self) -> list[Problem]:
        problems = list(self._keyring.picture.problems)
        if self._withheld is not None and self._keyring.picture.write is None:
            problems.append(self._withheld)
        connected = self._hsm.connected
        if connected is None:
            problems.insert(0, Problem(self._hsm.error.message, self._hsm.error.hint, fatal=True))
        else:
            problems.extend(
                Problem(f"token {connected.token.label!r}: {text}", "kmsctl slots shows it", fatal=False)
                for text in connected.token.pin_warnings
            )
        stuck = self._hsm.pool_view().stuck
        if stuck:
            problems.append(
                Problem(f"{stuck} sessions are stuck inside the PKCS#11 module", "check the token", fatal=False)
            )
        return problems

    def _token_changed(self) -> None:
        connected = self._hsm.connected
        if connected is not None:
            log.info(
                "token is up",
                token=connected.token.label,
                slot=connected.slot_id,
                module=connected.module.path,
            )
            self._nudge.set()
        elif not self._stopping:
            log.warning("token is down", reason=self._hsm.error.message, hint=self._hsm.error.hint)
        self._health.poke()

    def _keys_changed(self, before: Picture, after: Picture) -> None:
        old, new = before.write, after.write
        log.info(
            "keys changed",
            keys=len(after.keys),
            write_key_id=new.key_id if new else None,
            write_key_id_sha256=new.key_id_sha256 if new else None,
        )
        for problem in after.problems:
            log.warning(problem.message, hint=problem.hint)
        if (old and old.key_id) != (new and new.key_id):
            self._health.poke()
            if new is not None:
                directory = self.loaded.settings.state.dir
                try:
                    state.remember(directory, self._keyring.write_label, new.key_id)
                except OSError as error:
                    log.warning(
                        "the state directory cannot be written", directory=str(directory), reason=error.strerror
                    )

    def _health_changed(self, view: HealthView) -> None:
        if self._stopping:
            return
        if view.ok:
            log.info("healthy", round_trip_ms=round(view.round_trip * 1000, 3))
            notify(STATUS="serving")
        elif view.error is not None:
            log.warning("not healthy", reason=view.error.message, hint=view.error.hint)
            notify(STATUS=f"not healthy: {view.error.message}")
        # The admin API serves whatever the token does; what is healthy or not is the KMS socket.
        kms, front = self._listeners
        self._spawn(kms.set_serving(view.ok))
        self._spawn(front.set_serving(True))

    def _reload(self) -> None:
        """SIGHUP: log settings and the PIN change now; a token that refused its PIN is tried again."""
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            fresh = self.reload()
        except ConfigError as error:
            log.error("reload refused, the old configuration stays", reason=error.message, hint=error.hint)
        else:
            needs_restart = [
                name
                for name in sorted(fresh.origins)
                if not name.startswith(_RELOADABLE) and _value(fresh, name) != _value(self.loaded, name)
            ]
            old = self.loaded.settings
            self.loaded = Loaded(
                settings=old.model_copy(
                    update={
                        "log": fresh.settings.log,
                        "token": old.token.model_copy(
                            update={
                                "pin": fresh.settings.token.pin,
                                "pin_file": fresh.settings.token.pin_file,
                            }
                        ),
                    }
                ),
                origins=fresh.origins,
                file=fresh.file,
                warnings=fresh.warnings,
            )
            logs.configure(self.loaded.settings.log.format, self.loaded.settings.log.level)
            log.info("configuration read again", needs_restart=needs_restart)
            self._read_pin_again()
            if self._hsm.connected is None:
                self._spawn(self._reconnect())
        notify(READY="1")

    def _read_pin_again(self) -> None:
        """Take the PIN that is configured now; keep the old one if it could be read only once."""
        try:
            fresh = read_pin(self.loaded.settings.token)
        except ConfigError as error:
            log.warning("the PIN cannot be read again, the old one stays", reason=error.message, hint=error.hint)
        else:
            self._pin = fresh if fresh is not None else self._pin

    async def _reconnect(self) -> None:
        await self._hsm.reconnect("reload")

    async def _stop(self, places: list[SocketPlace]) -> None:
        self._stopping = True
        log.info("kmsd is stopping")
        notify(STOPPING="1")
        await asyncio.gather(*(listener.stop(_DRAIN_SECONDS) for listener in self._listeners))
        for place in places:
            place.release()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.clean = await self._hsm.close()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", type=type(error).__name__, task=task.get_name())


def _log_call(call: Call, code: str, seconds: float) -> None:
    if not logs.debugging():
        return
    log.debug(
        "call",
        api=call.api,
        method=call.method,
        code=code,
        ms=round(seconds * 1000, 3),
        uid=call.uid,
        key_id_sha256=call.key_id_sha256,
    )


def _value(loaded: Loaded, name: str) -> object:
    section, _, key = name.partition(".")
    return getattr(getattr(loaded.settings, section), key)
