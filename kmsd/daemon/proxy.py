"""A proxy's objects, built and wired together: the sockets of a kmsd, and key managers on other machines behind them.

Loads nothing of PKCS#11.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kmsd import state
from kmsd.apis import kms_v1beta1, kms_v2
from kmsd.apis.admin_config import ConfigAdmin
from kmsd.apis.admin_proxy import Check, ProxyAdmin
from kmsd.apis.admin_watch import Ended, WatchAdmin
from kmsd.apis.audited import audited
from kmsd.audit.trail import Audit
from kmsd.daemon import event_sinks
from kmsd.daemon.configured import Configured
from kmsd.daemon.followed import Followed
from kmsd.daemon.liveness import Liveness
from kmsd.daemon.process import Spawn
from kmsd.daemon.sockets import KEPT_REQUESTS, admin_listener, kms_listener
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured, Unavailable, short
from kmsd.observe import logs
from kmsd.observe.expiry import how_long, soon
from kmsd.observe.feed import Feed
from kmsd.observe.sdnotify import notify
from kmsd.observe.stats import Stats
from kmsd.problem import About, Calls, Problem
from kmsd.service.remote import Canary, RemoteService
from kmsd.service.upstream import Channel, Upstream, UpstreamError, dial
from kmsd.transport.asking import answers
from kmsd.transport.listener import Listener
from kmsd.transport.tls import OwnCertificate, TlsFiles, TlsMaterial

if TYPE_CHECKING:
    from kmsd.daemon.renewal import Renewal

log = logs.get_logger("kmsd")

_LOOK: Final = 0.5
"""Seconds between two looks at whether an upstream that is away is due."""
_CHECK_SECONDS: Final = 3.0
_CERTIFICATE_DAYS: Final = 14
"""A key manager's certificate that ends within so many days is worth a warning."""
_DAY: Final = 86400
_CLOCKS_APART: Final = 5.0
"""Seconds by which the clocks of a proxy and a key manager may differ without a warning."""


def _no_tenant(name: str) -> Stats:
    raise InvalidRequest(f"there is no tenant {short(name)}", "a proxy has none: ask its key managers")


class NoSessions:
    """The sessions of a proxy, which has none."""

    configured = open = busy = stuck = queued = most = 0


class ProxyParts:
    """The parts of a running proxy. See `kmsd.daemon.process.Parts`. give_up: told why only a restart can help.

    Raises KmsdError if a part cannot be had as it is configured.
    """

    def __init__(self, configured: Configured, spawn: Spawn, give_up: Callable[[str], None]) -> None:
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
        self.audit = Audit(settings.audit, settings.state.dir)
        self._traffic = event_sinks.TrafficSink(self._stats, self._requests, self._failed, self.audit)
        self._followed = Followed(settings.state.dir)
        self._material = TlsMaterial(
            TlsFiles(proxy.tls_ca, proxy.tls_certificate, proxy.tls_key), server=False, changed=self._files_changed
        )
        self.service = RemoteService(
            [Upstream(address, self._dial) for address in proxy.upstreams],
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
                kms_v2.table(lambda _: self.service),
                kms_v1beta1.table(lambda _: self.service, settings.kms.max_plaintext),
            ),
            self._traffic,
            self._socket_remade,
        )
        tables = (
            ProxyAdmin(
                self.service,
                self._started,
                lambda: [(str(each.place.path), each.apis) for each in self.listeners],
                self._problems,
                self._unreachable,
                lambda: self.liveness.verdict,
                self._own_certificate,
                self._probe,
                lambda: loaded.own if (loaded := self._material.loaded) is not None else None,
            ).table(),
            ConfigAdmin(configured.view, configured.set_log_level).table(),
            WatchAdmin(self._stats, self._requests, self._failed, NoSessions, self.audit, _no_tenant).table(),
        )
        self._front = admin_listener(
            settings.admin, (audited(each, self.audit) for each in tables), self._traffic, self._socket_remade
        )
        self.liveness = Liveness(
            [(each.place.path, each.watch) for each in self.listeners], settings.health.give_up_after, answers, give_up
        )
        self._told_well: bool | None = None
        self._renewal = self._make_renewal(proxy.est_server) if proxy.est_server else None

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The Unix sockets."""
        return self._kms, self._front

    async def start(self) -> None:
        """Read the TLS files, and begin with the key managers: the sockets answer already."""
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
        await self._material.look()
        for upstream in self.service.upstreams:
            upstream.renew()

    async def drain(self, grace: float) -> None:
        """Do nothing: nobody else is served."""

    async def end(self) -> None:
        """End the connections to key managers."""
        self._followed.keep_last()
        await asyncio.gather(*(each.close() for each in self.service.upstreams))

    # The connections to key managers.

    def _dial(self, address: str) -> Channel:
        loaded = self._material.loaded
        return dial(address, loaded.pem if loaded is not None else None, self._settings.proxy.server_name)

    def _make_renewal(self, server: str) -> Renewal:
        from kmsd.daemon.renewal import Renewal  # these load what only renewing needs
        from kmsd.est.files import NodeFiles

        files = self._material.files
        node = NodeFiles(files.key, files.certificate, files.ca)
        return Renewal(server, node, self._try_certificate, self._material.look, self._tell_renewal)

    async def _try_certificate(self, pem: tuple[bytes, bytes, bytes]) -> None:
        """Show a new certificate to the key managers, until one of them takes it. Raises KmsdError."""
        refused: KmsdError | None = None
        name = self._settings.proxy.server_name
        for address in self._settings.proxy.upstreams:
            upstream = Upstream(address, lambda address: dial(address, pem, name))
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
        if (error := self._material.problem) is not None:
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

    async def _probe(self, upstream: Upstream, seconds: float) -> list[Check]:
        """Try one key manager: whether it is reached, who it is, and a round trip."""
        name = upstream.address
        checks = [await self._handshake(upstream, seconds / 3)]
        if checks[0].outcome != "failed":
            checks += await self._introduction(upstream, seconds / 3)
            began = time.monotonic()
            await self.service.check_one(upstream, seconds / 3, thorough=True)
            error = upstream.wrong_key or (None if upstream.up else upstream.error)
            if error is not None:
                checks.append(Check("round_trip", f"{name}: round trip", "failed", error.message, error.hint))
            else:
                took = (time.monotonic() - began) * 1000
                words = f"Status says {upstream.healthz!r}; what was encrypted before is decrypted ({took:.1f} ms)"
                well = "ok" if upstream.healthz == "ok" else "failed"
                checks.append(Check("round_trip", f"{name}: round trip", well, words))
        return checks

    async def _introduction(self, upstream: Upstream, seconds: float) -> list[Check]:
        """Try whom a key manager takes this proxy for, and whether the clocks of both agree."""
        name = upstream.address
        title = f"{name}: who this proxy is there"
        try:
            found = await self.service.introduce(upstream, seconds)
        except UpstreamError as failed:
            return [Check("tenant", title, "failed", failed.error.message, failed.error.hint)]
        except KmsdError as error:
            return [Check("tenant", title, "failed", error.message, error.hint)]
        words = f"tenant {found.tenant}, says kmsd {found.version} on {found.host} by {found.tls}"
        ahead = round(found.ahead, 1) + 0.0  # which is never a negative zero
        skew = f"its clock is {ahead:+.1f} s from this machine's, give or take {found.give_or_take:.2f} s"
        wrong = abs(found.ahead) - found.give_or_take > _CLOCKS_APART
        fix = "set both clocks (NTP): certificates that begin, end or are renewed are taken by them" if wrong else ""
        return [
            Check("tenant", title, "ok", words),
            Check("clock", f"{name}: clock", "warning" if wrong else "ok", skew, fix),
        ]

    def _own_certificate(self) -> Check:
        """Return whether this proxy's certificate lasts."""
        title, loaded = "Own certificate", self._material.loaded
        if loaded is None:
            return Check("certificate", title, "failed", "there are no TLS files that can be used")
        own = loaded.own
        ending = soon(own.not_before, own.not_after)
        fix = "put a new one in its place: kmsd reads the files anew when they change" if ending else ""
        seen = f"{own.subject} {how_long(own.not_after)}"
        return Check("certificate", title, "warning" if ending else "ok", seen, fix)

    async def _handshake(self, upstream: Upstream, seconds: float) -> Check:
        title, loaded = f"{upstream.address}: TLS", self._material.loaded
        if loaded is None:
            error = self._material.problem
            return Check("tls", title, "failed", error.message if error else "there are no TLS files")
        host, _, port = upstream.address.rpartition(":")
        shown = self._settings.proxy.server_name or host.strip("[]")
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=loaded.context, server_hostname=shown
                )
        except TimeoutError:
            return Check("tls", title, "failed", f"no handshake in {seconds:.0f} s", "check the network to it")
        except ssl.SSLCertVerificationError as error:
            fix = "check --tls-ca, and the name in its certificate (proxy.server_name)"
            return Check("tls", title, "failed", f"its certificate is not taken: {error.verify_message}", fix)
        except ssl.SSLError as error:
            return Check("tls", title, "failed", f"the handshake failed ({error.reason})", "it must speak TLS 1.3")
        except OSError as error:
            return Check("tls", title, "failed", f"it is not reached: {error.strerror or error}", "check its address")
        try:
            handshake = writer.get_extra_info("ssl_object")
            ends = ssl.cert_time_to_seconds(handshake.getpeercert()["notAfter"])
            days = (ends - time.time()) / _DAY
            words = f"{handshake.version()}, {handshake.cipher()[0]}; its certificate lasts {days:.0f} days"
            return Check("tls", title, "ok" if days > _CERTIFICATE_DAYS else "warning", words)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
