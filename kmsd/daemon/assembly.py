"""kmsd's objects, built and wired together: which part is told of what another one sees."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kmsd.apis import admin, kms_v1beta1, kms_v2
from kmsd.apis.admin_config import ConfigAdmin
from kmsd.apis.admin_doctor import DoctorAdmin
from kmsd.apis.admin_inspect import InspectAdmin
from kmsd.apis.admin_keys import KeyAdmin
from kmsd.apis.admin_no_ca import without_ca
from kmsd.apis.admin_table import ENROLMENT, JWT, refusing
from kmsd.apis.admin_tenants import TenantAdmin
from kmsd.apis.admin_watch import Ended, WatchAdmin
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.apis.audited import audited
from kmsd.audit.trail import Audit
from kmsd.config.settings import Settings, TokenEntry
from kmsd.config.tcp import not_served
from kmsd.daemon import event_sinks
from kmsd.daemon.background_tasks import Upkeep
from kmsd.daemon.configured import Configured
from kmsd.daemon.liveness import Liveness
from kmsd.daemon.observed import Observed
from kmsd.daemon.problems import Problems, pool_of
from kmsd.daemon.process import Spawn
from kmsd.daemon.sockets import KEPT_REQUESTS, TOLD_SERVERS, admin_listener, kms_listener
from kmsd.daemon.tenancy import Tenancy
from kmsd.daemon.token_metrics import TokenMetrics
from kmsd.daemon.uses import KeyUses
from kmsd.daemon.writer import Shared, Writer
from kmsd.errors import KmsdError, Misconfigured
from kmsd.formats import keyid
from kmsd.hsm.address import AUTO_SESSIONS, AUTO_SESSIONS_GROWN, TokenAddress
from kmsd.hsm.claims import Claims
from kmsd.hsm.connection import Hsm
from kmsd.hsm.pin_guard import PinGuard
from kmsd.keys.judging import Rules
from kmsd.keys.scanner import KeyScanner
from kmsd.observe import logs
from kmsd.observe.feed import Feed
from kmsd.observe.health import HealthView
from kmsd.observe.stats import Stats
from kmsd.service.api import KmsService
from kmsd.transport.asking import answers
from kmsd.transport.call import Call, Table
from kmsd.transport.listener import Listener

if TYPE_CHECKING:
    from kmsd.daemon.ca import CaParts
    from kmsd.daemon.enrolment import EnrolmentParts
    from kmsd.daemon.jwt import JwtParts
    from kmsd.daemon.stored import StoreKeeper
    from kmsd.transport.tls import OwnCertificate
    from kmsd.transport.tls_listener import TlsListener

log = logs.get_logger("kmsd")

_NO_JWT: Final = "this kmsd signs no service account tokens, and does no {}", "set jwt.socket, or a tenant's jwt_label"
_NO_ENROLMENT: Final = "this kmsd enrols nobody, and does no {}", "set est.listen: docs/enrolment.md says how"


class TokenParts:
    """The parts that a running kmsd is made of, wired together. stopping: set when it ends, so that what ends with it
    makes no noise.

    give_up: told why only a restart can help. Raises KmsdError if a part cannot be had as it is configured.
    """

    def __init__(self, configured: Configured, spawn: Spawn, give_up: Callable[[str], None]) -> None:
        settings = configured.settings
        self.stopping = False
        self._settings = settings
        self._spawn = spawn
        self._stats = Stats()
        self._requests: Feed[Ended] = Feed(KEPT_REQUESTS)
        self.audit = Audit(settings.audit, settings.state.dir)
        self.uses = KeyUses(settings.state.dir, self._stats, settings.keys.label, lambda: bool(self.tenancy.labels))
        self._failed: deque[Ended] = deque(maxlen=KEPT_REQUESTS)
        self._told = event_sinks.TokenSink(self.audit)
        self._of_tenants: dict[str, Stats] = {}
        self._traffic = event_sinks.TrafficSink(self._stats, self._requests, self._failed, self.audit, self._of_tenants)
        self.tokens = self._hsms(configured)
        self._scanner = KeyScanner(
            self.tokens,
            Rules(settings.keys.algorithm, settings.keys.hmac_label, settings.ca.enabled or settings.signs_tokens),
        )
        self.upkeep = Upkeep(settings, self.tokens, self._scanner)
        shared = Shared(settings, self.tokens, self._scanner, self.uses, self.audit, self.upkeep.nudge)
        self.own = Writer(
            shared, tenant="", label=settings.keys.label, directory=settings.state.dir, told=self._health_changed
        )
        self.upkeep.labels.append(self.own.upkeep)
        self.tenancy = Tenancy(shared, self.upkeep.labels, self._of_tenants, self._tenants_changed)
        kms = settings.kms
        self._kms = kms_listener(
            kms,
            (kms_v2.table(self._service), kms_v1beta1.table(self._service, kms.max_plaintext)),
            self._traffic,
            self._socket_remade,
        )
        self.store = self._store() if settings.ca.enabled or settings.est.listen else None
        self.ca = self._ca_parts(self.store) if self.store is not None and settings.ca.enabled else None
        self.enrolment = self._enrolment_parts(self.store) if self.store is not None and settings.est.listen else None
        self.jwt = self._jwt_parts() if settings.signs_tokens else None
        if self.jwt is not None:
            self.upkeep.looked.append(self.jwt.looked)
        self._problems = self._gather_problems()
        self.observed = self._observed()
        self._tables = self._admin_tables(configured)
        self._front = admin_listener(
            settings.admin, (audited(each, self.audit) for each in self._tables), self._traffic, self._socket_remade
        )
        self.tls = self._tls_listener() if settings.server.enabled else None
        self.liveness = Liveness(
            [(each.place.path, each.watch) for each in self.listeners],
            settings.health.give_up_after,
            answers,
            give_up,
        )

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Return the listeners of the Unix sockets."""
        jwt = self.jwt.listener if self.jwt is not None else None
        return (self._kms, self._front) if jwt is None else (self._kms, self._front, jwt)

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
                sessions=AUTO_SESSIONS if place.sessions == "auto" else place.sessions,
                sessions_grown=AUTO_SESSIONS_GROWN if place.sessions == "auto" else 0,
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

    def _tls_listener(self) -> TlsListener | Misconfigured:
        """Make the listener for other machines, or return what keeps it from being."""
        from kmsd.apis import peer
        from kmsd.transport.tls import TlsFiles  # these load what only TLS needs
        from kmsd.transport.tls_listener import TlsListener

        server, kms = self._settings.server, self._settings.kms
        if server.tls_ca is None or server.tls_certificate is None or server.tls_key is None:
            error = Misconfigured(*(not_served(server) or ("TLS files are missing",)))
            event_sinks.tcp_changed(self.audit, "", error)
            return error
        files = TlsFiles(server.tls_ca, server.tls_certificate, server.tls_key, server.tls_revoked)
        listener = TlsListener(
            server.host,
            server.port,
            files,
            (
                kms_v2.table(self.tenancy.service),
                kms_v1beta1.table(self.tenancy.service, kms.max_plaintext),
                *(audited(each, self.audit) for each in self._tables),
                *((self.jwt.table(),) if self.jwt is not None else ()),
                peer.table(),
            ),
            servers=TOLD_SERVERS[kms.transport],
            apis=(kms_v2.API, kms_v1beta1.API, admin.API),
            services=(kms_v2.SERVICE, kms_v1beta1.SERVICE),
            timeout=kms.request_timeout,
            observe=self._traffic,
            admission=self.tenancy.admission,
            of_tenant=self.tenancy.serves,
            connections=server.max_connections,
            refused=event_sinks.RefusedPeers(self.audit),
            changed=lambda error: event_sinks.tcp_changed(self.audit, listener.where, error),
            taken=lambda own: event_sinks.certificate_taken(self.audit, own),
        )
        return listener

    def _store(self) -> StoreKeeper:
        """Make what keeps the store open. It loads what only that needs."""
        from kmsd.daemon.stored import StoreKeeper

        return StoreKeeper(self._settings)

    def _ca_parts(self, store: StoreKeeper) -> CaParts:
        """Make the certificate authority. It loads what only that needs."""
        from kmsd.daemon.ca import CaParts

        shown = KeyPresenter(self.own.keyring, self._stats, self.tenancy.tenant_of)
        return CaParts(self._settings, self.own, self.tenancy, store, shown)

    def _jwt_parts(self) -> JwtParts:
        """Make the signers of service account tokens. It loads what only they need."""
        from kmsd.daemon.jwt import JwtParts

        return JwtParts(self._settings, self.own, self.audit, self._traffic, self._socket_remade)

    def _gather_problems(self) -> Problems:
        enrolment = self.enrolment
        return Problems(
            self.tokens,
            self.own,
            self.tenancy,
            self.upkeep,
            self.audit,
            self._stats,
            self._settings.state.dir,
            self._tls_problem,
            self._own_certificate,
            self._unreachable,
            lambda: self.liveness.verdict,
            lambda: enrolment.problems() if enrolment is not None else (),
            lambda: self.observed.problems(),
            lambda: (
                *(self.ca.problems if self.ca is not None else ()),
                *(self.jwt.problems if self.jwt is not None else ()),
            ),
        )

    def _service(self, call: Call) -> KmsService:
        """Return the service of kmsd's own callers, of whom kmsctl is no kube-apiserver."""
        return self.own.unfollowed if call.check else self.own.service

    def _observed(self) -> Observed:
        """Make the metrics, and the probes that [observe] asks for."""
        metrics = self._metrics = TokenMetrics(
            self.tokens,
            self.own,
            self.tenancy,
            self.audit,
            self._stats,
            lambda: self._problems.now(""),
            self._places,
            self._certificates,
            self._unreachable,
            lambda: self.liveness.verdict,
            self._settings.server.enabled,
            self._tls_problem,
            lambda: self.stopping,
            lambda: self.jwt.measured() if self.jwt is not None else (),
        )
        return Observed(self._settings.observe, self.audit, metrics.samples, metrics.live, metrics.ready)

    def _admin_tables(self, configured: Configured) -> tuple[Table, ...]:
        settings, own, enrolment, problems = self._settings, self.own, self.enrolment, self._problems
        shown = KeyPresenter(own.keyring, self._stats, self.tenancy.tenant_of)
        write_token = settings.write_place.called
        tenants = TenantAdmin(self.tenancy, shown, problems.of_tenant, self._connected)
        front = admin.Admin(
            keyring=own.keyring,
            writer_of=lambda tenant: self.tenancy.find(tenant) if tenant else own,
            tenants=tenants.statuses,
            certificate=self._own_certificate,
            shown=shown,
            started=time.time(),
            write_format=settings.keys.write_format,
            write_token=write_token,
            listeners=self._listening,
            problems=problems.now,
            unreachable=self._unreachable,
            verdict=lambda: self.liveness.verdict,
            read_pin_again=configured.read_pin_again,
        )
        return (
            front.table(),
            tenants.table(),
            ConfigAdmin(configured.view, configured.set_log_level).table(),
            KeyAdmin(
                own.keyring,
                own.lifecycle,
                shown,
                self._writer_of_label,
                lambda: bool(own.followed.following.key_id),
                self._metrics.scanned,
            ).table(),
            WatchAdmin(
                self._stats,
                self._requests,
                self._failed,
                lambda: pool_of(self.tokens),
                self.audit,
                self.tenancy.counted,
            ).table(),
            InspectAdmin(own.keyring, own.foreign, own.service, shown).table(),
            DoctorAdmin(
                own.keyring,
                write_token,
                self._tls_problem,
                self._own_certificate,
                self.jwt.tried if self.jwt is not None else None,
            ).table(),
            self.observed.table(),
            enrolment.table() if enrolment is not None else refusing(ENROLMENT, *_NO_ENROLMENT),
            self.ca.table() if self.ca is not None else without_ca(),
            self.jwt.admin_table() if self.jwt is not None else refusing(JWT, *_NO_JWT),
        )

    def _enrolment_parts(self, store: StoreKeeper) -> EnrolmentParts:
        """Make what gives certificates to nodes. It loads what only that needs."""
        from kmsd.daemon.ca import profile
        from kmsd.daemon.enrolment import EnrolmentParts, no_authority, no_chain, no_crl
        from kmsd.daemon.est_certificate import EstCertificate

        settings, ca = self._settings, self.ca
        own = EstCertificate(settings.est, settings.state.dir, ca.authority) if ca is not None else None
        if ca is not None and own is not None:
            ca.on_change = own.look_soon
        return EnrolmentParts(
            settings,
            self.audit,
            store,
            authority=ca.authority if ca is not None else no_authority,
            names=lambda: ca.ca.profile if ca is not None else profile(settings),
            chain=ca.chain if ca is not None else no_chain,
            crl=ca.crl if ca is not None else no_crl,
            key_type=settings.ca.key_types[0],
            own=own,
        )

    def _writer_of_label(self, label: str) -> Writer:
        """Return the writer whose write key has this label, a tenant's if there is one; kmsd's own for any other."""
        return next((each for each in self.tenancy.writers if each.label == label), self.own)

    @property
    def tls_listeners(self) -> tuple[TlsListener, ...]:
        """The listener for other machines, if there is one."""
        return (self.tls,) if self.tls is not None and not isinstance(self.tls, Misconfigured) else ()

    def _connected(self) -> Mapping[tuple[bytes, str], int]:
        """Return how many connections each certificate has, by its issuer and its serial number."""
        return self.tls_listeners[0].connected if self.tls_listeners else {}

    def _tenants_changed(self) -> None:
        for listener in self.tls_listeners:
            listener.tenants_changed()

    def _own_certificate(self) -> OwnCertificate | None:
        """Return the certificate that callers from other machines are shown."""
        loaded = self.tls_listeners[0].material.loaded if self.tls_listeners else None
        return loaded.own if loaded is not None else None

    def _listening(self) -> list[tuple[str, Sequence[str]]]:
        """Return where callers are served, each place with its APIs."""
        places: list[tuple[str, Sequence[str]]] = [(str(each.place.path), each.apis) for each in self.listeners]
        places += [(each.where, each.apis) for each in self.tls_listeners if each.is_open]
        places += self.enrolment.listening if self.enrolment is not None else ()
        return [*places, *self.observed.listening]

    def _places(self) -> Iterator[tuple[str, bool]]:
        """Yield every place where callers are to be served, and whether they are."""
        for each in self.listeners:
            yield str(each.place.path), each.watch.problem is None
        if self._settings.server.enabled:
            server = self._settings.server
            yield f"{server.host}:{server.port}", any(each.is_open for each in self.tls_listeners)
        if self.enrolment is not None:
            yield self._settings.est.listen, any(self.enrolment.listening)

    def _certificates(self) -> Iterator[tuple[str, OwnCertificate]]:
        """Yield the certificates that callers are shown, each with what for."""
        if (own := self._own_certificate()) is not None:
            yield "server", own
        if self.enrolment is not None and (est := self.enrolment.certificate) is not None:
            yield "est", est

    def _tls_problem(self) -> KmsdError | None:
        """Return why callers from other machines are not served, although they are to be."""
        return self.tls if isinstance(self.tls, Misconfigured) else self.tls.problem if self.tls is not None else None

    async def start(self) -> None:
        """Listen on TCP, if that is asked for, and begin with the keys: the sockets answer before the token does, for
        kube-apiserver must find them whatever the token is up to."""
        self.uses.begin()
        await self.observed.start()
        self._rule(self._settings)
        if self.ca is not None:
            await self.ca.begin()
        for listener in self.tls_listeners:
            await listener.start(self._settings.admin.socket.parent)
        if self.enrolment is not None:
            await self.enrolment.start()
        if self._settings.keys.algorithm == "rsa-oaep":
            log.warning(
                "RSA keys serve: whoever knows the public key can write what opens as if kube-apiserver had written it",
                hint="prefer a token with AES; docs/tokens.md says more",
            )
        self.own.begin()

    def work(self) -> Sequence[Coroutine[object, object, None]]:
        """Return what goes on beside the calls, for ever."""
        ca = self.ca.work() if self.ca is not None else ()
        store = (self.store.keep(),) if self.store is not None else ()
        enrolment = self.enrolment.work() if self.enrolment is not None else ()
        return self.upkeep.run(), self.uses.keep(), self.liveness.run(), self.liveness.feed(), *store, *ca, *enrolment

    async def reload(self, configured: Configured) -> None:
        """Go by these tenants, admins and PINs, and try a token that is away at once."""
        self._rule(configured.settings)
        for name, hsm in self.tokens.items():
            await asyncio.to_thread(configured.read_pin_again, name)
            hsm.try_soon()

    async def drain(self, grace: float) -> None:
        """Serve nobody on TCP any more; what has begun has so many seconds."""
        if self.enrolment is not None:
            await self.enrolment.stop()
        await asyncio.gather(*(each.stop(grace) for each in self.tls_listeners))
        await self.tenancy.stop()

    async def end(self) -> None:
        """Let go of the tokens; what hangs was waited for long enough. Until now probes were told that kmsd stops."""
        await self.observed.stop()
        self.uses.keep_all()
        if self.ca is not None:
            self.ca.close()
        if self.store is not None:
            self.store.close()
        await self.own.end()
        await asyncio.gather(*(hsm.close() for hsm in self.tokens.values()))

    def _rule(self, settings: Settings) -> None:
        """Go by these tenants and admins from now on."""
        self.tenancy.rule(settings.tenants if settings.server.enabled else (), settings.admins)
        if self.ca is not None:
            self.ca.rule(settings)
        if self.jwt is not None:
            self.jwt.rule(settings.tenants if settings.server.enabled else ())
        self.upkeep.nudge()

    def _unreachable(self) -> KmsdError | None:
        """Return why nobody can connect to one of the sockets any more, if so."""
        return next((each.watch.problem for each in self.listeners if each.watch.problem is not None), None)

    # The wires: what one part sees and the others are to do.

    def _token_changed(self, name: str) -> None:
        hsm = self.tokens[name]
        if hsm.connected is not None or not self.stopping:
            self._told.changed(name, hsm, pool_of(self.tokens).open)
        if hsm.connected is not None:
            self.upkeep.nudge()
        for writer in (self.own, *self.tenancy.writers):
            writer.health.poke()

    def _socket_remade(self, path: Path, what: str) -> None:
        event_sinks.socket_remade(self.audit, path, what)

    def _health_changed(self, view: HealthView) -> None:
        if self.stopping:
            return
        event_sinks.health_changed(self.audit, view)
        # The admin API serves whatever the token does; what is healthy or not is the KMS socket.
        self._kms.set_serving(view.ok)
        self._front.set_serving(True)
        for listener in self.tls_listeners:
            listener.set_serving(any(hsm.available for hsm in self.tokens.values()))
