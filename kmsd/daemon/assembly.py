"""kmsd's objects, built and wired together: which part is told of what another one sees."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

from kmsd import state
from kmsd.apis import admin, kms_v1beta1, kms_v2
from kmsd.apis.admin_doctor import DoctorAdmin
from kmsd.apis.admin_inspect import InspectAdmin
from kmsd.apis.admin_keys import KeyAdmin
from kmsd.apis.admin_watch import Ended, WatchAdmin
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.apis.audited import audited
from kmsd.audit.trail import Audit
from kmsd.config.settings import TokenEntry
from kmsd.daemon import event_sinks
from kmsd.daemon.background_tasks import Upkeep
from kmsd.daemon.configured import Configured
from kmsd.daemon.followed import Followed
from kmsd.daemon.liveness import Liveness
from kmsd.daemon.problems import Problems, pool_of
from kmsd.daemon.uses import KeyUses
from kmsd.errors import KmsdError, Misconfigured, WrongResult
from kmsd.formats import keyid
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.claims import Claims
from kmsd.hsm.connection import Hsm
from kmsd.hsm.pin_guard import PinGuard
from kmsd.keys.inventory import Rules
from kmsd.keys.key import Inventory
from kmsd.keys.keyring import Keyring
from kmsd.keys.lifecycle import Lifecycle
from kmsd.keys.scanner import KeyScanner
from kmsd.observe import logs
from kmsd.observe.feed import Feed
from kmsd.observe.health import Health, HealthView
from kmsd.observe.stats import Stats
from kmsd.observe.unproven import Unproven
from kmsd.service.foreign import Foreign
from kmsd.service.local import LocalService
from kmsd.transport.asking import answers
from kmsd.transport.call import Table
from kmsd.transport.dispatch import Dispatch
from kmsd.transport.grpcio import GrpcioServer
from kmsd.transport.h2corn import H2cornServer
from kmsd.transport.listener import Listener, Server
from kmsd.transport.sockets import SocketPlace

log = logs.get_logger("kmsd")

_KEPT_REQUESTS: Final = 1000
_SERVERS: Final[dict[str, tuple[Callable[[Dispatch], Server], ...]]] = {
    "grpcio": (GrpcioServer,),
    # grpcio for clients that address their requests to the path of the socket, which h2corn resets.
    "h2corn": (H2cornServer, GrpcioServer),
}
_ADMIN_SECONDS: Final = 60.0
"""For the answer to a call of the admin API whose caller names no time."""

Spawn = Callable[[Coroutine[object, object, None]], None]
"""Lets something run in the background until kmsd ends."""


class Parts:
    """What a running kmsd is made of. stopping: set when it ends, so that what ends with it makes no noise.

    give_up: told why only a restart can help. Raises KmsdError if a part cannot be had as it is configured.
    """

    def __init__(self, configured: Configured, spawn: Spawn, give_up: Callable[[str], None]) -> None:
        settings = configured.settings
        self.stopping = False
        self._settings = settings
        self._spawn = spawn
        self._stats = Stats()
        self._requests: Feed[Ended] = Feed(_KEPT_REQUESTS)
        self.audit = Audit(settings.audit, settings.state.dir)
        self.uses = KeyUses(settings.state.dir, self._stats, settings.keys.label)
        self.followed = Followed(settings.state.dir)
        self._failed: deque[Ended] = deque(maxlen=_KEPT_REQUESTS)
        self._traffic = event_sinks.TrafficSink(self._stats, self._requests, self._failed, self.audit)
        self._told = event_sinks.TokenSink(self.audit)
        self.tokens = self._hsms(configured)
        recalled = state.recall(settings.state.dir, settings.keys.label)
        self._wrote = set(state.wrote_here(settings.state.dir))
        self._scanner = KeyScanner(self.tokens, Rules(settings.keys.algorithm, settings.keys.hmac_label))
        self._keyring = Keyring(
            self._scanner,
            write_label=settings.keys.label,
            recalled=recalled,
            on_change=self._keys_changed,
        )
        self._foreign = Foreign(
            self._keyring,
            allowed=settings.legacy.allow_unauthenticated,
            pinned=settings.legacy.key,
            hmac_label=settings.keys.hmac_label,
            wrote=lambda: self._wrote,
        )
        self._lifecycle = Lifecycle(self._keyring, write_token=settings.write_place.called, uses=self.uses)
        self._unproven = Unproven()
        self.upkeep = Upkeep(
            settings,
            self.tokens,
            self._keyring,
            self._lifecycle,
            self._unproven,
            lambda key: event_sinks.key_adopted(self.audit, key),
        )
        self.health = Health(
            self.upkeep.round_trip,
            interval=settings.health.interval,
            timeout=settings.kms.request_timeout + 1,
            on_change=self._health_changed,
            on_wrong=self._wrong_results,
        )
        service = LocalService(
            self._keyring,
            self.health,
            self.followed.following,
            write_legacy=settings.keys.write_format == "k8s-kms-plugin",
            fail_closed=settings.kms.on_hsm_loss == "fail-closed",
            remembered=recalled,
            used=self.uses.used,
            foreign=self._foreign,
            unproven=self._unproven,
        )
        self._kms = self._kms_listener(service)
        self._front = self._admin_listener(self._admin_tables(configured, service))
        self.liveness = Liveness(
            [(each.place.path, each.watch) for each in self.listeners],
            settings.health.give_up_after,
            answers,
            give_up,
        )

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return self._kms, self._front

    def _hsms(self, configured: Configured) -> dict[str, Hsm]:
        places = configured.settings.places
        claims = Claims([place.called for place in places])
        return {place.called: self._hsm(configured, place, claims) for place in places}

    def _hsm(self, configured: Configured, place: TokenEntry, claims: Claims) -> Hsm:
        return Hsm(
            TokenAddress(
                module=place.module,
                provider=place.provider,
                label=place.label,
                slot=place.slot,
                sessions=place.sessions,
                queue=place.queue,
                timeout=self._settings.kms.request_timeout,
                stuck_after=self._settings.health.stuck_after,
                trusted_public=frozenset().union(*map(keyid.named, self._settings.keys.trust_public_objects)),
            ),
            read_pin=lambda: configured.pin(place.called),
            on_change=lambda: self._token_changed(place.called),
            guard=PinGuard(place.called, self._settings.state.dir),
            observe=self._traffic.operation,
            tell=lambda text: event_sinks.token_told(self.audit, place.called, text),
            name=place.called,
            claims=claims,
            printed=lambda line, left_out: event_sinks.module_printed(place.called, line, left_out),
        )

    def _kms_listener(self, service: LocalService) -> Listener:
        kms = self._settings.kms
        return Listener(
            SocketPlace(kms.socket, int(kms.mode, 8), kms.group),
            (kms_v2.table(service), kms_v1beta1.table(service, kms.max_plaintext)),
            servers=_SERVERS[kms.transport],
            apis=(kms_v2.API, kms_v1beta1.API),
            services=(kms_v2.SERVICE, kms_v1beta1.SERVICE),
            timeout=kms.request_timeout,
            observe=self._traffic,
            remade=self._socket_remade,
        )

    def _admin_listener(self, tables: tuple[Table, ...]) -> Listener:
        place = self._settings.admin
        return Listener(
            SocketPlace(place.socket, 0o660 if place.group else 0o600, place.group),
            tuple(audited(each, self.audit) for each in tables),
            servers=(GrpcioServer,),
            apis=(admin.API,),
            services=(admin.SERVICE,),
            timeout=_ADMIN_SECONDS,
            observe=self._traffic,
            remade=self._socket_remade,
            proven=True,
        )

    def _admin_tables(self, configured: Configured, service: LocalService) -> tuple[Table, ...]:
        settings = self._settings
        shown = KeyPresenter(self._keyring, self._stats)
        write_token = settings.write_place.called
        front = admin.Admin(
            keyring=self._keyring,
            health=self.health,
            service=service,
            shown=shown,
            started=time.time(),
            write_format=settings.keys.write_format,
            write_token=write_token,
            listeners=lambda: [(str(each.place.path), each.apis) for each in self.listeners],
            problems=Problems(
                self.tokens,
                self._keyring,
                self._lifecycle,
                self._foreign,
                self.upkeep,
                self.health,
                self.audit,
                self._stats,
                settings.server,
                settings.state.dir,
                self._unreachable,
                lambda: self.liveness.verdict,
            ).now,
            config=configured.view,
            set_log_level=configured.set_log_level,
            unreachable=self._unreachable,
            verdict=lambda: self.liveness.verdict,
            read_pin_again=configured.read_pin_again,
        )
        return (
            front.table(),
            KeyAdmin(self._keyring, self._lifecycle, self.health, shown).table(),
            WatchAdmin(self._stats, self._requests, self._failed, lambda: pool_of(self.tokens), self.audit).table(),
            InspectAdmin(self._keyring, self._foreign, service, shown).table(),
            DoctorAdmin(self._keyring, write_token, settings.server).table(),
        )

    def _unreachable(self) -> KmsdError | None:
        """Why nobody can connect to one of the sockets any more."""
        return next((each.watch.problem for each in self.listeners if each.watch.problem is not None), None)

    # The wires: what one part sees and the others are to do.

    def _token_changed(self, name: str) -> None:
        hsm = self.tokens[name]
        if hsm.connected is not None or not self.stopping:
            self._told.changed(name, hsm, pool_of(self.tokens).open)
        if hsm.connected is not None:
            self.upkeep.nudge()
        self.health.poke()

    def _socket_remade(self, path: Path, what: str) -> None:
        event_sinks.socket_remade(self.audit, path, what)

    def _keys_changed(self, before: Inventory, after: Inventory) -> None:
        old, new = before.write, after.write
        event_sinks.keys_changed(after)
        event_sinks.planted(self.audit, before, after)
        self.uses.seen(after)
        # A rotation that another kmsd began may be waiting to be finished.
        self.upkeep.nudge()
        if (old and old.key_id) != (new and new.key_id):
            self.health.poke()
            event_sinks.write_key_changed(self.audit, before, after)
            if new is not None:
                self._remember(new.key_id)

    def _remember(self, key_id: str) -> None:
        directory = self._settings.state.dir
        self._wrote.add(key_id)
        try:
            state.remember(directory, self._keyring.write_label, key_id)
        except (OSError, Misconfigured) as error:
            log.warning("the state directory cannot be written", directory=str(directory), reason=state.reason(error))

    def _wrong_results(self, error: WrongResult) -> None:
        self.upkeep.in_doubt = event_sinks.wrong_results(self.audit, error, self._unproven)

    def _health_changed(self, view: HealthView) -> None:
        if self.stopping:
            return
        event_sinks.health_changed(self.audit, view)
        # The admin API serves whatever the token does; what is healthy or not is the KMS socket.
        self._kms.set_serving(view.ok)
        self._front.set_serving(True)
