"""The composition root: the only place that builds kmsd's objects and wires them together.

tokens -> keyring -> lifecycle, service -> method tables -> two listeners
             `---- health, stats, audit ----'
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
from dataclasses import dataclass, field, replace
from typing import Final

import uvloop

from kmsd import __version__, config, state
from kmsd.config import ConfigError, Loaded, read_pin
from kmsd.config_values import PIN, leaf_key, to_toml
from kmsd.crypto.schemes import round_trip
from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.foreign import Foreign
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.connection import Hsm, Neighbours
from kmsd.hsm.opening import module_path
from kmsd.hsm.pool import PoolView
from kmsd.keyring import Keyring
from kmsd.lifecycle import Lifecycle, Wanted
from kmsd.observe import logs
from kmsd.observe.audit import Audit
from kmsd.observe.feed import Feed
from kmsd.observe.health import Health, HealthView
from kmsd.observe.sdnotify import notify
from kmsd.observe.stats import Stats
from kmsd.picture import Picture, Problem
from kmsd.reloading import needs_restart, reloadable, with_fresh
from kmsd.rpc import admin, kms_v1beta1, kms_v2
from kmsd.rpc.admin_doctor import DoctorAdmin
from kmsd.rpc.admin_inspect import InspectAdmin
from kmsd.rpc.admin_keys import KeyAdmin
from kmsd.rpc.admin_watch import Ended, WatchAdmin
from kmsd.rpc.admin_wire import Shown
from kmsd.rpc.audited import audited
from kmsd.rpc.call import Call
from kmsd.rpc.listener import Listener
from kmsd.rpc.sockets import SocketPlace
from kmsd.service import LocalService, check_format
from kmsd.settings import Settings, TokenEntry

log = logs.get_logger("kmsd")

_DRAIN_SECONDS: Final = 5.0
_PR_SET_DUMPABLE: Final = 4
_USES_SECONDS: Final = 60.0
"""Between two times that the uses of keys are written to the state directory."""
_KEPT_REQUESTS: Final = 1000
_MANY_ENCRYPTS: Final = 2**30
"""A quarter of the invocations that one AES-GCM key with random IVs may see (NIST SP 800-38D, 8.3: 2^32)."""


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
    _pins: dict[str, str] = field(default_factory=dict, repr=False)
    _withheld: Problem | None = None
    _level: str = ""
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
            await self._audit.start()
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
            self._audit.event("kmsd up", detail=f"version {__version__}")
            # The sockets answer before the token does: kube-apiserver must find them whatever the token is up to.
            self._spawn(self._begin(settings))
            self._spawn(self._keep_uses(settings))
            notify(READY="1", STATUS="starting")
            if self.on_ready is not None:
                self.on_ready()
            await stop.wait()
        finally:
            await self._stop(places)

    def _build(self, settings: Settings) -> None:
        self._level = settings.log.level
        self._stats = Stats()
        self._requests: Feed[Ended] = Feed(_KEPT_REQUESTS)
        self._audit = Audit(settings.audit, settings.state.dir)
        uses = state.recall_uses(settings.state.dir)
        self._known_since = uses.since or time.time()
        self._stats.load_last_used(uses.last)
        self._tokens = self._hsms(settings)
        recalled = state.recall(settings.state.dir, settings.keys.label)
        self._keyring = Keyring(
            self._tokens,
            write_label=settings.keys.label,
            algorithm=settings.keys.algorithm,
            hmac_label=settings.keys.hmac_label,
            recalled=recalled,
            on_change=self._keys_changed,
        )
        self._foreign = Foreign(
            self._keyring,
            allowed=settings.legacy.allow_unauthenticated,
            pinned=settings.legacy.key,
            hmac_label=settings.keys.hmac_label,
            used=self._stats.used,
        )
        write_token = settings.write_place.called
        self._lifecycle = Lifecycle(
            self._keyring,
            write_token=write_token,
            last_used=lambda key_id: self._stats.key_use(key_id).last_used,
            known_since=lambda: self._known_since,
            idle=settings.keys.idle_before_destroy,
        )
        self._health = Health(
            self._round_trip,
            interval=settings.health.interval,
            timeout=settings.kms.request_timeout + 1,
            on_change=self._health_changed,
        )
        service = LocalService(
            self._keyring,
            self._health,
            write_legacy=settings.keys.write_format == "k8s-kms-plugin",
            fail_closed=settings.kms.on_hsm_loss == "fail-closed",
            remembered=recalled,
            used=self._stats.used,
            foreign=self._foreign,
        )
        shown = Shown(self._keyring, self._stats)
        front = admin.Admin(
            keyring=self._keyring,
            health=self._health,
            service=service,
            shown=shown,
            started=time.time(),
            write_format=settings.keys.write_format,
            write_token=write_token,
            listeners=lambda: [(str(each.place.path), each.apis) for each in self._listeners],
            problems=self._problems,
            config=self._config,
            set_log_level=self._set_log_level,
        )
        keys = KeyAdmin(self._keyring, self._lifecycle, self._health, shown)
        watch = WatchAdmin(self._stats, self._requests, self._pool, self._audit)
        tables = (
            front.table(),
            keys.table(),
            watch.table(),
            InspectAdmin(self._keyring, shown).table(),
            DoctorAdmin(self._keyring, write_token).table(),
        )
        self._listeners = (
            Listener(
                SocketPlace(settings.kms.socket, int(settings.kms.mode, 8), settings.kms.group),
                (kms_v2.table(service), kms_v1beta1.table(service, settings.kms.max_plaintext)),
                apis=(kms_v2.API, kms_v1beta1.API),
                services=(kms_v2.SERVICE, kms_v1beta1.SERVICE),
                timeout=settings.kms.request_timeout,
                observe=self,
            ),
            Listener(
                SocketPlace(settings.admin.socket, 0o660 if settings.admin.group else 0o600, settings.admin.group),
                tuple(audited(each, self._audit) for each in tables),
                apis=(admin.API,),
                services=(admin.SERVICE,),
                timeout=60.0,
                observe=self,
            ),
        )

    def _hsms(self, settings: Settings) -> dict[str, Hsm]:
        neighbours: dict[str, Neighbours] = {}
        return {place.called: self._hsm(settings, place, neighbours) for place in settings.places}

    def _hsm(self, settings: Settings, place: TokenEntry, neighbours: dict[str, Neighbours]) -> Hsm:
        return Hsm(
            TokenAddress(
                module=place.module,
                provider=place.provider,
                label=place.label,
                slot=place.slot,
                sessions=place.sessions,
                queue=place.queue,
                timeout=settings.kms.request_timeout,
                stuck_after=settings.health.stuck_after,
            ),
            read_pin=lambda: self._read_pin(place.called),
            on_change=lambda: self._token_changed(place.called),
            neighbours=neighbours.setdefault(_module(place.provider, place.module), Neighbours()),
            observe=self._operation,
            tell=lambda text: log.warning(text, token=place.called),
        )

    async def _begin(self, settings: Settings) -> None:
        """Connect, make what is to be made, then look, finish what others began, and check for ever."""
        self._spawn(self._health.run())
        await asyncio.gather(*(hsm.start() for hsm in self._tokens.values()))
        created = not settings.keys.auto_create
        while True:
            self._nudge.clear()
            if any(hsm.connected is not None for hsm in self._tokens.values()):
                try:
                    await self._keyring.look()
                    await self._lifecycle.roll_forward()
                    if not created and self._keyring.seen:
                        await self._auto_create(settings)
                        created = True
                except KmsdError as error:
                    log.debug("look failed", reason=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.keys.refresh):
                    await self._nudge.wait()

    async def _auto_create(self, settings: Settings) -> None:
        known = state.recall(settings.state.dir, settings.keys.label)
        if self._keyring.picture.write is None and known:
            # Another write key in its place would hide a loss, or a token that is not the right one.
            self._withheld = Problem(
                f"key {known} wrote here before and is not on {self._keyring.where}: --auto-create makes no other",
                f"bring the right token or key back; if it is gone for good: kmsctl keygen {settings.keys.label}",
                fatal=False,
            )
            log.error(self._withheld.message, hint=self._withheld.hint)
        elif self._keyring.picture.write is None:
            up = self._tokens[settings.write_place.called].connected
            gcm = settings.keys.algorithm != "aes-cbc" and (up is None or "CKM_AES_GCM" in up.mechanisms)
            kind: Wanted = "aes" if gcm or settings.keys.hmac_label else "pair"
            made = await self._lifecycle.generate(settings.keys.label, kind, 256, "", if_not_exists=True)
            self._tell_created(made.key.label, made.key.key_id_sha256, created=made.created)
        if settings.keys.hmac_label:
            made = await self._lifecycle.generate(settings.keys.hmac_label, "hmac", 256, "", if_not_exists=True)
            self._tell_created(made.key.label, made.key.key_id_sha256, created=made.created)

    @staticmethod
    def _tell_created(label: str, key_id_sha256: str, *, created: bool) -> None:
        if created:
            log.info("key made by auto_create", label=label, key_id_sha256=key_id_sha256)

    async def _keep_uses(self, settings: Settings) -> None:
        """Write down when the keys were used, now and then."""
        told = False
        while True:
            # At once, too: what was written at the end of the last run is complete no more.
            try:
                await asyncio.to_thread(state.remember_uses, settings.state.dir, self._uses())
            except OSError as error:
                if not told:
                    log.warning("the uses of keys cannot be kept", reason=error.strerror)
                told = True
            await asyncio.sleep(_USES_SECONDS)

    def _uses(self) -> state.Uses:
        return state.Uses(self._known_since, {use.key_id: use.last_used for use in self._stats.uses()})

    async def _round_trip(self) -> None:
        if not self._keyring.seen or self._keyring.picture.write is None:
            await self._keyring.look_soon()
        try:
            await self._try_write_key()
        except Unavailable:
            # The key may have been destroyed, or the token be away: a look tells which.
            await self._keyring.look_soon()
            await self._try_write_key()

    async def _try_write_key(self) -> None:
        key = self._keyring.write_key()
        settings = self.loaded.settings
        check_format(key.scheme, write_legacy=settings.keys.write_format == "k8s-kms-plugin")
        if key.scheme is not None:
            timeout = settings.kms.request_timeout
            await round_trip(self._keyring.hsm(key), key.cka_id, key.scheme, timeout)

    def _read_pin(self, name: str) -> str | None:
        try:
            # Kept until a reload: a file descriptor or a credential may be there to be read only once.
            if name not in self._pins:
                pin = read_pin(self._place(name))
                if pin is None:
                    return None
                self._pins[name] = pin
            return self._pins[name]
        except ConfigError as error:
            raise Misconfigured(error.message, error.hint) from error

    def _place(self, name: str) -> TokenEntry:
        return next(place for place in self.loaded.settings.places if place.called == name)

    # What is told of all this.

    def began(self) -> None:
        self._stats.began()

    def ended(self, call: Call, code: str, seconds: float) -> None:
        self._stats.ended()
        self._stats.record(call.api, call.method, code, seconds)
        self._requests.publish(Ended(time.time(), call.api, call.method, call.uid, call.key_id_sha256, code, seconds))
        if call.method in _AUDITED:
            self._audit.kms(
                f"{call.api} {call.method}",
                code,
                seconds=seconds,
                key_id_sha256=call.key_id_sha256,
                detail=call.uid,
            )
        if logs.debugging():
            log.debug(
                "call",
                api=call.api,
                method=call.method,
                code=code,
                ms=round(seconds * 1000, 3),
                uid=call.uid,
                key_id_sha256=call.key_id_sha256,
            )

    def _operation(self, fn: Callable[..., object], seconds: float) -> None:
        self._stats.operation(_OPERATIONS.get(fn.__name__, "other"), seconds)

    def _pool(self) -> PoolView:
        views = [hsm.pool_view() for hsm in self._tokens.values()]
        return PoolView(
            configured=sum(view.configured for view in views),
            open=sum(view.open for view in views),
            busy=sum(view.busy for view in views),
            stuck=sum(view.stuck for view in views),
            queued=sum(view.queued for view in views),
        )

    def _problems(self) -> list[Problem]:
        picture = self._keyring.picture
        problems = [*picture.problems, *self._keyring.problems, *self._lifecycle.problems, *self._foreign.problems]
        if self._withheld is not None and picture.write is None:
            problems.append(self._withheld)
        for name, hsm in self._tokens.items():
            connected = hsm.connected
            if connected is None:
                writes = picture.write is None or picture.write.place == name
                problems.insert(0, Problem(hsm.error.message, hsm.error.hint, fatal=writes))
                continue
            problems.extend(
                Problem(f"token {connected.token.label!r}: {text}", "kmsctl slots shows it", fatal=False)
                for text in connected.token.pin_warnings
            )
        error = self._health.view().error
        if error is not None and picture.write is not None and not any(problem.fatal for problem in problems):
            problems.insert(0, Problem(error.message, error.hint, fatal=True))
        stuck = self._pool().stuck
        if stuck:
            problems.append(
                Problem(f"{stuck} sessions are stuck inside the PKCS#11 module", "check the token", fatal=False)
            )
        if self._audit.problem is not None:
            problems.append(Problem(self._audit.problem.message, self._audit.problem.hint, fatal=False))
        if picture.write is not None:
            encrypts = self._stats.key_use(picture.write.key_id).encrypts
            if encrypts >= _MANY_ENCRYPTS:
                problems.append(
                    Problem(
                        f"the write key has encrypted {encrypts:,} times since kmsd started; with random IVs an "
                        "AES-GCM key may do so 2^32 times in all",
                        "rotate soon: kmsctl rotate",
                        fatal=False,
                    )
                )
        return problems

    def _config(self) -> admin.ConfigView:
        settings = self.loaded.settings
        shown = []
        for name, origin in self.loaded.origins.items():
            if settings.tokens and name.startswith("token."):
                continue  # [[tokens]] take its place
            value = config.value(settings, name)
            leaf = leaf_key(name.split("."))
            text = "" if value is None else to_toml(leaf, value)
            shown.append(admin.SettingView(name, text, origin.where, leaf == PIN, reloadable(name)))
        return admin.ConfigView(str(self.loaded.file or ""), shown, self.loaded.warnings)

    def _set_log_level(self, level: str | None) -> tuple[str, str]:
        previous = self._level
        if level is None:
            return previous, previous
        self._level = admin.level_of(level or self.loaded.settings.log.level, tuple(logs.LEVELS))
        logs.configure(self.loaded.settings.log.format, self._level)
        if self._level != previous:
            log.warning("log level changed", level=self._level, was=previous)
        return self._level, previous

    def _token_changed(self, name: str) -> None:
        hsm = self._tokens[name]
        connected = hsm.connected
        if connected is not None:
            log.info(
                "token is up",
                token=connected.token.label,
                slot=connected.slot_id,
                module=connected.module.path,
            )
            self._audit.event("token up", detail=f"{name}, {self._pool().open} sessions open")
            self._nudge.set()
        elif not self._stopping:
            log.warning("token is down", token=name, reason=hsm.error.message, hint=hsm.error.hint)
            self._audit.event("token down", outcome="UNAVAILABLE", detail=f"{name}: {hsm.error.message}")
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
            if not problem.passing:
                log.warning(problem.message, hint=problem.hint)
        # A rotation that another kmsd began may be waiting to be finished.
        self._nudge.set()
        if (old and old.key_id) != (new and new.key_id):
            self._health.poke()
            self._audit.event(
                "write key",
                outcome="OK" if new else "NOT_FOUND",
                key_id_sha256=new.key_id_sha256 if new else "",
                detail=f"{old.key_id if old else 'none'} -> {new.key_id if new else 'none'}",
            )
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
            self._audit.event("healthy")
        elif view.error is not None:
            log.warning("not healthy", reason=view.error.message, hint=view.error.hint)
            notify(STATUS=f"not healthy: {view.error.message}")
            self._audit.event("not healthy", outcome=view.error.code, detail=view.error.message)
        # The admin API serves whatever the token does; what is healthy or not is the KMS socket.
        kms, front = self._listeners
        self._spawn(kms.set_serving(view.ok))
        self._spawn(front.set_serving(True))

    # Reloading and ending.

    def _reload(self) -> None:
        """SIGHUP: log settings and the PINs change now; a token that refused its PIN is tried again."""
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            fresh = self.reload()
        except ConfigError as error:
            log.error("reload refused, the old configuration stays", reason=error.message, hint=error.hint)
        else:
            old = self.loaded.settings
            stay = needs_restart(fresh, self.loaded)
            self.loaded = Loaded(
                settings=with_fresh(old, fresh.settings),
                origins=fresh.origins if not stay else self.loaded.origins,
                file=fresh.file,
                warnings=fresh.warnings,
            )
            self._level = self.loaded.settings.log.level
            logs.configure(self.loaded.settings.log.format, self._level)
            log.info("configuration read again", needs_restart=stay)
            for name in self._tokens:
                self._read_pin_again(name)
            for hsm in self._tokens.values():
                if hsm.connected is None:
                    self._spawn(self._reconnect(hsm))
        notify(READY="1")

    def _read_pin_again(self, name: str) -> None:
        """Take the PIN that is configured now; keep the old one if it could be read only once."""
        try:
            fresh = read_pin(self._place(name))
        except ConfigError as error:
            log.warning("the PIN cannot be read again, the old one stays", reason=error.message, hint=error.hint)
        else:
            if fresh is not None:
                self._pins[name] = fresh

    async def _reconnect(self, hsm: Hsm) -> None:
        await hsm.reconnect("reload")

    async def _stop(self, places: list[SocketPlace]) -> None:
        self._stopping = True
        log.info("kmsd is stopping")
        notify(STOPPING="1")
        self._audit.event("kmsd stopping")
        await asyncio.gather(*(listener.stop(_DRAIN_SECONDS) for listener in self._listeners))
        for place in places:
            place.release()
        await self._audit.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            state.remember_uses(self.loaded.settings.state.dir, replace(self._uses(), complete=True))
        closed = await asyncio.gather(*(hsm.close() for hsm in self._tokens.values()))
        self.clean = all(closed)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", type=type(error).__name__, task=task.get_name())


_AUDITED: Final = frozenset({"Encrypt", "Decrypt"})
_OPERATIONS: Final = {
    "encrypt_native": "encrypt",
    "encrypt_legacy": "encrypt",
    "encrypt": "encrypt",
    "decrypt_here": "decrypt",
    "round_trip_here": "probe",
    "decrypt_gcm": "decrypt",
    "_round_trip": "probe",
    "list_keys": "list keys",
    "with_rw": "change keys",
}
"""What the functions that run on the token are called in the statistics."""


def _module(provider: str, path: str) -> str:
    """Names the module of a token: tokens of one module are neighbours."""
    try:
        return os.path.realpath(module_path(provider, path))
    except KmsdError:
        return provider
