"""A proxy's objects, built and wired together: the sockets of a kmsd, and key managers on other machines behind them.

Loads nothing of PKCS#11.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kmsd import state
from kmsd.apis import kms_v1beta1, kms_v2
from kmsd.apis.admin_config import ConfigAdmin
from kmsd.apis.admin_proxy import ProxyAdmin
from kmsd.apis.admin_watch import Ended, WatchAdmin
from kmsd.apis.audited import audited
from kmsd.audit.trail import Audit
from kmsd.daemon import event_sinks
from kmsd.daemon.configured import Configured
from kmsd.daemon.followed import Followed
from kmsd.daemon.liveness import Liveness
from kmsd.daemon.observed import Observed
from kmsd.daemon.own_key import OwnKey
from kmsd.daemon.process import Spawn
from kmsd.daemon.proxy_checks import ProxyChecks
from kmsd.daemon.proxy_metrics import ProxyMetrics
from kmsd.daemon.sockets import KEPT_REQUESTS, admin_listener, kms_listener
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured, Unavailable, short
from kmsd.observe import logs
from kmsd.observe.expiry import how_long, soon
from kmsd.observe.feed import Feed
from kmsd.observe.sdnotify import notify
from kmsd.observe.stats import Stats
from kmsd.problem import About, Calls, Problem
from kmsd.request import on_own_account
from kmsd.service.remote import Canary, RemoteService
from kmsd.service.upstream import Channel, Upstream, UpstreamError, dial
from kmsd.transport.asking import answers
from kmsd.transport.call import Call
from kmsd.transport.listener import Listener
from kmsd.transport.tls import OwnCertificate, TlsFiles, TlsMaterial

if TYPE_CHECKING:
    from kmsd.daemon.renewal import Renewal

log = logs.get_logger("kmsd")

_LOOK: Final = 0.5
"""Seconds between two looks at whether an upstream that is away is due."""
_CHECK_SECONDS: Final = 3.0
_LONGEST: Final = 366 * 86400
"""Seconds for which no token is in force."""


def _no_tenant(name: str) -> Stats:
    raise InvalidRequest(f"there is no tenant {short(name)}", "a proxy has none: ask its key managers")


class NoSessions:
    """The sessions of a proxy, which has none."""

    configured = open = busy = stuck = queued = most = 0


class ProxyParts:
    """The parts of a running proxy. See `kmsd.daemon.process.Parts`. give_up: told why only a restart can help.
    own_key: the key of the certificate, if that is in no file.

    Raises KmsdError if a part cannot be had as it is configured.
    """

    def __init__(
        self,
        configured: Configured,
        spawn: Spawn,
        give_up: Callable[[str], None],
        audit: Audit | None = None,
        own_key: OwnKey | None = None,
    ) -> None:
        settings = configured.settings
        proxy = settings.proxy
        if not proxy.upstreams:
            raise Misconfigured("no key manager is named", "name one with --upstream host:port (proxy.upstreams)")
        if proxy.tls_ca is None or proxy.tls_certificate is None or proxy.tls_key is None:
            raise Misconfigured(
                "a proxy needs --tls-ca, --tls-certificate and --tls-key (proxy.tls_ca, ...)",
                "give all three: key managers are asked with TLS and a client certificate only",
            )
        self.stopping = False
        self._settings = settings
        self._stats = Stats()
        self._requests: Feed[Ended] = Feed(KEPT_REQUESTS)
        self._failed: deque[Ended] = deque(maxlen=KEPT_REQUESTS)
        self.audit = audit or Audit(settings.audit, settings.state.dir)
        self._own_key = own_key
        self._spawn = spawn
        self._traffic = event_sinks.TrafficSink(self._stats, self._requests, self._failed, self.audit)
        self._followed = Followed(settings.state.dir)
        self._material = TlsMaterial(
            TlsFiles(proxy.tls_ca, proxy.tls_certificate, proxy.tls_key if own_key is None else None),
            server=False,
            changed=self._files_changed,
            prove=own_key.prove if own_key is not None else None,
        )
        self.service = RemoteService(
            [Upstream(address, self._dial, self._own_fault) for address in proxy.upstreams],
            prefer=proxy.prefer,
            hedge=proxy.hedge,
            fail_closed=settings.kms.on_hsm_loss == "fail-closed",
            canary=Canary.from_json(state.recall_canary(settings.state.dir)),
            on_canary=self._keep_canary,
            on_change=self._upstream_changed,
            following=self._followed.following,
        )
        self._started = time.time()
        self._kms = kms_listener(
            settings.kms,
            (
                kms_v2.table(self._serving),
                kms_v1beta1.table(self._serving, settings.kms.max_plaintext),
            ),
            self._traffic,
            self._socket_remade,
        )
        self._jwt = self._jwt_listener() if settings.jwt.socket is not None else None
        metrics = ProxyMetrics(
            self.service,
            self.audit,
            self._stats,
            self._problems,
            lambda: [(str(each.place.path), each.watch.problem is None) for each in self.listeners],
            self._shown_certificate,
            self._unreachable,
            lambda: self.liveness.verdict,
            lambda: self.stopping,
        )
        self.observed = Observed(settings.observe, self.audit, metrics.samples, metrics.live, metrics.ready)
        self._renewal = self._make_renewal(proxy.est_server) if proxy.est_server else None
        checks = ProxyChecks(self.service, self._material, proxy.server_name, own_key, self._renewal)
        tables = (
            ProxyAdmin(
                self.service,
                self._started,
                lambda: [*((str(each.place.path), each.apis) for each in self.listeners), *self.observed.listening],
                self._problems,
                self._unreachable,
                lambda: self.liveness.verdict,
                checks.own,
                checks.probe,
                self._shown_certificate,
                own_key.unlock if own_key is not None else None,
            ).table(),
            ConfigAdmin(configured.view, configured.set_log_level).table(),
            WatchAdmin(self._stats, self._requests, self._failed, NoSessions, self.audit, _no_tenant).table(),
            self.observed.table(),
        )
        self._front = admin_listener(
            settings.admin, (audited(each, self.audit) for each in tables), self._traffic, self._socket_remade
        )
        self.liveness = Liveness(
            [(each.place.path, each.watch) for each in self.listeners], settings.health.give_up_after, answers, give_up
        )
        self._told_well: bool | None = None

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The Unix sockets."""
        return (self._kms, self._front) if self._jwt is None else (self._kms, self._front, self._jwt)

    async def start(self) -> None:
        """Read the TLS files, and begin with the key managers: the sockets answer already."""
        await self.observed.start()
        if self._own_key is not None:
            self._spawn(self._own_key.start(self._key_changed))
        await self._material.look()
        self._followed.begin()
        self._front.set_serving(True)

    def work(self) -> Iterable[Coroutine[object, object, None]]:
        """Return what goes on beside the calls, for ever."""
        keeping = self._material.keep(), self._followed.keep()
        renewing = (self._renewal.keep(),) if self._renewal is not None else ()
        return (*keeping, *renewing, self._check(), self.liveness.run(), self.liveness.feed())

    async def reload(self, configured: Configured) -> None:
        """Look at the TLS files, and try every key manager at once."""
        if self._own_key is not None:
            await self._own_key.reload()
            self._material.try_soon()
        await self._material.look()
        for upstream in self.service.upstreams:
            upstream.renew()

    async def drain(self, grace: float) -> None:
        """Do nothing: nobody else is served."""

    async def end(self) -> None:
        """End the connections to key managers. Until now probes were told that kmsd stops."""
        await self.observed.stop()
        self._followed.keep_last()
        await asyncio.gather(*(each.close() for each in self.service.upstreams))
        if self._own_key is not None:
            await self._own_key.close()

    def _serving(self, call: Call) -> RemoteService:
        """Return the service of a call, and have it know whether a kube-apiserver is behind that."""
        on_own_account.set(call.check)
        return self.service

    def _jwt_listener(self) -> Listener:
        """Make the socket on which service account tokens are signed. It loads what only that needs."""
        from kmsd.apis import jwt_v1
        from kmsd.daemon.sockets import jwt_listener
        from kmsd.jwt.claims import Rules
        from kmsd.jwt.remote import RemoteJwt

        settings = self._settings
        service = RemoteJwt(
            self.service.in_order,
            settings.state.dir,
            settings.proxy.hedge,
            lambda words: event_sinks.jwt_keys_changed(self.audit, words, ""),
        )
        # How long a token may be in force is the key managers' to say.
        rules = Rules(settings.jwt.issuers, _LONGEST)

        def serving(call: Call) -> RemoteJwt:
            on_own_account.set(call.check)
            return service

        tables = (jwt_v1.table(serving, lambda _: rules),)
        return jwt_listener(settings, tables, self._traffic, self._socket_remade)

    # The connections to key managers.

    def _dial(self, address: str) -> Channel:
        loaded, key, name = self._material.loaded, self._own_key, self._settings.proxy.server_name
        if key is None:
            return dial(address, loaded.pem if loaded is not None else None, name)
        if loaded is None:
            why = self._own_fault() or Unavailable("the key of the certificate has not been tried yet", "try again")
            error = Unavailable(f"key manager {address} cannot be reached: {why.message}", why.hint)
            raise UpstreamError(error, its_own=True)
        return dial(address, loaded.pem, name, key.signer(loaded.pem[1]))

    def _own_fault(self) -> KmsdError | None:
        """Return why this proxy cannot show its certificate, if its key is in no file."""
        if self._own_key is None:
            return None
        return self._own_key.problem or (self._material.problem if self._material.loaded is None else None)

    def _key_changed(self) -> None:
        """Go on at once when the key is back; connections that stand need it no more."""
        if self._own_key is not None and self._own_key.problem is None:
            self._material.try_soon()
            for upstream in self.service.upstreams:
                if not upstream.up:
                    upstream.renew()

    def _make_renewal(self, server: str) -> Renewal:
        from kmsd.daemon.renewal import Renewal  # these load what only renewing needs
        from kmsd.est.files import NodeFiles, NodeStore

        node: NodeStore
        files = self._material.files
        if self._own_key is not None:
            node = self._own_key.store(files.certificate, files.ca)
        else:
            assert files.key is not None  # noqa: S101 - there is no other place for it
            node = NodeFiles(files.key, files.certificate, files.ca)
        return Renewal(server, node, self._try_certificate, self._material.look, self._tell_renewal)

    async def _try_certificate(self, pem: tuple[bytes, bytes, bytes]) -> None:
        """Show a new certificate to the key managers, until one of them takes it. Raises KmsdError."""
        refused: KmsdError | None = None
        name, key = self._settings.proxy.server_name, self._own_key
        sign = key.signer(pem[1]) if key is not None else None
        for address in self._settings.proxy.upstreams:
            upstream = Upstream(address, lambda address: dial(address, pem, name, sign))
            try:
                await self.service.introduce(upstream, _CHECK_SECONDS)
                return
            except UpstreamError as failed:
                refused = failed.error
            except KmsdError as error:
                refused = error
            finally:
                await upstream.close()
        why = refused.message if refused is not None else "none is configured"
        raise Unavailable(
            f"no key manager takes the new certificate: {why}", "the old one stays; look at the key manager's log"
        )

    def _tell_renewal(self, error: KmsdError | None, words: str) -> None:
        if error is None:
            log.info("certificate renewed", certificate=words)
            self.audit.event("certificate renewed", detail=words)
        else:
            log.warning("certificate is not renewed", reason=error.message, hint=error.hint)
            self.audit.event("certificate not renewed", outcome=error.code, detail=error.message)

    def _files_changed(self, own: OwnCertificate) -> None:
        event_sinks.certificate_taken(self.audit, own)
        for upstream in self.service.upstreams:
            upstream.renew()

    async def _check(self) -> None:
        """Try the key managers: each every `health.interval`, and one that is away when its time has come."""
        last = -self._settings.health.interval
        while True:
            now = time.monotonic()
            away = any(not each.up and each.due for each in self.service.upstreams)
            if away or now - last >= self._settings.health.interval:
                last = now
                await self.service.check(min(_CHECK_SECONDS, self._settings.kms.request_timeout))
                self._tell_health()
            await asyncio.sleep(min(_LOOK, self._settings.health.interval))

    def _tell_health(self) -> None:
        error = self.service.why_down()
        self._kms.set_serving(error is None)
        if self._jwt is not None:
            self._jwt.set_serving(error is None)
        if (error is None) != self._told_well:
            self._told_well = error is None
            event_sinks.proxy_health_changed(self.audit, error)

    def _upstream_changed(self, upstream: Upstream) -> None:
        if not self.stopping:
            event_sinks.upstream_changed(self.audit, upstream.address, upstream.wrong_key, upstream.up, upstream.error)
            notify(STATUS=f"{sum(each.usable for each in self.service.upstreams)} key managers are well")

    def _keep_canary(self, canary: Canary) -> None:
        directory = self._settings.state.dir
        self.audit.event("write key", detail=f"key managers write with {canary.key_id}")
        try:
            state.remember_canary(directory, canary.as_json())
        except (OSError, Misconfigured) as error:
            log.warning("the state directory cannot be written", directory=str(directory), reason=state.reason(error))

    def _socket_remade(self, path: Path, what: str) -> None:
        event_sinks.socket_remade(self.audit, path, what)

    def _unreachable(self) -> KmsdError | None:
        return next((each.watch.problem for each in self.listeners if each.watch.problem is not None), None)

    # What is wrong, and trying to find out.

    def _problems(self) -> list[Problem]:
        found: list[Problem] = []
        if verdict := self.liveness.verdict:
            found.append(Problem(f"only a restart can help: {verdict}", "kmsd is ending by itself", fatal=True))
        if (unreachable := self._unreachable()) is not None:
            about = About(setting="kms.socket")
            found.append(Problem(unreachable.message, unreachable.hint, fatal=True, about=about))
        if self._own_key is not None and (error := self._own_key.problem) is not None:
            fatal = not any(each.usable for each in self.service.upstreams)
            found.append(Problem(error.message, error.hint, fatal=fatal, about=About(setting="proxy.tls_key")))
        elif (error := self._material.problem) is not None:
            found.append(Problem(error.message, error.hint, fatal=False, about=About(setting="proxy.tls_certificate")))
        some = any(each.usable for each in self.service.upstreams)
        for each in self.service.upstreams:
            error = each.wrong_key or (None if each.up else each.error)
            if error is not None:
                about = About(setting="proxy.upstreams", calls=Calls(code=error.code))
                found.append(Problem(error.message, error.hint, fatal=not some, about=about))
            elif each.healthz not in ("", "ok"):
                words = f"key manager {each.address} is not well: {each.healthz}"
                found.append(Problem(words, f"ask it: kmsctl status --target tls://{each.address}", fatal=not some))
        keys = {each.key_id for each in self.service.upstreams if each.usable and each.key_id}
        if len(keys) > 1:
            found.append(
                Problem(
                    "the key managers name different write keys",
                    "a rotation is followed within keys.refresh of each; if this stays, they have different tokens",
                    fatal=False,
                    passing=True,
                )
            )
        found.extend(self._own_problems())
        return sorted(found, key=lambda each: not each.fatal)

    def _own_problems(self) -> Iterable[Problem]:
        yield from self.observed.problems()
        if self._renewal is not None:
            yield from self._renewal.problems()
        loaded = self._material.loaded
        if loaded is not None and soon(loaded.own.not_before, loaded.own.not_after):
            words = how_long(loaded.own.not_after, loaded.own.not_before)
            yield Problem(
                f"the certificate of this proxy ({loaded.own.subject}) {words}",
                "put a new one in its place: kmsd reads the files anew when they change",
                fatal=False,
                about=About(setting="proxy.tls_certificate"),
            )
        if (doubt := state.doubt(self._settings.state.dir)) is not None:
            yield Problem(doubt.message, doubt.hint, fatal=False, about=About(setting="state.dir"))
        for trouble in self.audit.troubles:
            about = About(audit=True, tampered=trouble == self.audit.tampering.trouble)
            yield Problem(trouble.message, trouble.hint, fatal=False, about=about)

    def _shown_certificate(self) -> OwnCertificate | None:
        """Return the certificate that key managers are shown."""
        loaded, key = self._material.loaded, self._own_key
        if loaded is None or key is None:
            return loaded.own if loaded is not None else None
        return replace(loaded.own, key_uri=key.where)
