"""The parts of a key manager that give certificates to nodes, built and wired together: store, EST, admin API.

Loads SQLAlchemy and aiohttp, which a kmsd without [est] does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence

from cryptography import x509

from kmsd.apis.admin_enrol import EnrolmentAdmin
from kmsd.audit.trail import Audit
from kmsd.config.settings import Settings
from kmsd.daemon import event_sinks
from kmsd.daemon.est_certificate import EstCertificate
from kmsd.daemon.stored import StoreKeeper
from kmsd.errors import KmsdError, Misconfigured, Overloaded
from kmsd.est.enrolment import Authority, Enrolment, Names
from kmsd.est.listener import EstListener
from kmsd.est.server import EstServer
from kmsd.observe import logs
from kmsd.observe.expiry import how_long, soon
from kmsd.problem import About, Problem
from kmsd.transport.call import Table
from kmsd.transport.tls import OwnCertificate

log = logs.get_logger("kmsd.est")


class EnrolmentParts:
    """The parts that a key manager with [est] has.

    keeper: has the store. authority, names, chain, crl: the CA, its rules for names, its certificates, and its list of
    revocations as DER, each asked on a thread; raise KmsdError while there is none. key_type: of the keys that nodes
    are asked to make. own: the certificate of the server, where the configuration names none; None without a CA.
    """

    def __init__(
        self,
        settings: Settings,
        audit: Audit,
        keeper: StoreKeeper,
        *,
        authority: Callable[[], Authority],
        names: Callable[[], Names],
        chain: Callable[[], Sequence[x509.Certificate]],
        crl: Callable[[], bytes],
        key_type: str,
        own: EstCertificate | None,
    ) -> None:
        self._settings = settings
        self._audit = audit
        self._keeper = keeper
        self._chain = chain
        est, server = settings.est, settings.server
        certificate, key = est.tls_certificate, est.tls_key
        self._own = own if certificate is None and key is None else None
        if self._own is not None:
            certificate, key = self._own.files.certificate, self._own.files.key
        elif certificate is None and key is None:
            certificate, key = server.tls_certificate, server.tls_key
        self._files = (certificate, key) if certificate is not None and key is not None else None
        self._crl = crl
        self._key_type = key_type
        self._enrolment = Enrolment(keeper.store, authority, names, settings.est.approval)
        self._server: EstServer | None = None
        self._listener: EstListener | None = None

    def table(self) -> Table:
        """Return the methods of the admin API."""
        return EnrolmentAdmin(self._enrolment, self._keeper.store, self._settings.state.dir, self._audit).table()

    async def start(self) -> None:
        """Open the port, if its files can be used."""
        if self._files is None:
            return
        est, (certificate, key) = self._settings.est, self._files
        self._server = EstServer(self._enrolment, _AuditRecorder(self._audit), self._chain, self._crl, self._key_type)
        self._listener = EstListener(
            est.listen,
            certificate,
            key,
            self._server.application(),
            chain=self._chain,
            connections=est.max_connections,
            refused=event_sinks.RefusedPeers(self._audit),
            told=self._told,
            taken=self._taken,
        )
        if self._own is None:
            await self._listener.start()

    def work(self) -> Sequence[Coroutine[object, object, None]]:
        """Return what goes on beside the calls, for ever."""
        return (self._own.keep(), self._serve_with(self._own)) if self._own is not None else ()

    async def _serve_with(self, own: EstCertificate) -> None:
        """Open the port when the CA has issued the server's certificate."""
        await own.made.wait()
        if self._listener is not None:
            await self._listener.start()

    async def stop(self) -> None:
        """Serve no node any more."""
        if self._listener is not None:
            await self._listener.stop()
        if self._server is not None:
            self._server.close()

    @property
    def listening(self) -> Iterator[tuple[str, Sequence[str]]]:
        """The address of the port if it is open, with its API."""
        if self._listener is not None and self._listener.is_open:
            yield self._listener.where, ("est",)

    @property
    def certificate(self) -> OwnCertificate | None:
        """The certificate that nodes are shown, if there is one."""
        loaded = self._listener.material.loaded if self._listener is not None else None
        return loaded.own if loaded is not None else None

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong."""
        if (error := self._keeper.problem) is not None:
            yield Problem(error.message, error.hint, fatal=False, about=About(setting="store.url"))
        if self._files is None:
            yield Problem(*_no_files(), fatal=False, about=About(setting="est.tls_certificate"))
        if self._listener is None:
            return
        if self._own is not None and (error := self._own.problem) is not None and not self._listener.is_open:
            words = f"nobody can enrol: the EST server has no certificate: {error.message}"
            yield Problem(words, error.hint, fatal=False, about=About(setting="est.listen"))
        elif (error := self._listener.problem) is not None:
            yield Problem(error.message, error.hint, fatal=False, about=About(setting="est.listen"))
        own = self.certificate
        if own is not None and soon(own.not_before, own.not_after):
            yield Problem(
                f"the certificate of the EST server ({own.subject}) {how_long(own.not_after)}",
                "put a new one in its place: kmsd reads the files anew when they change",
                fatal=False,
                about=About(setting="est.tls_certificate"),
            )

    def _told(self, error: KmsdError | None) -> None:
        where = self._listener.where if self._listener is not None else self._settings.est.listen
        if error is None:
            log.info("serving EST", address=where)
            self._audit.event("est serving", detail=where)
        else:
            log.error(error.message, hint=error.hint)
            self._audit.event("est not serving", outcome=error.code, detail=error.message)

    def _taken(self, own: OwnCertificate) -> None:
        event_sinks.certificate_taken(self._audit, own)


def _no_files() -> tuple[str, str]:
    return (
        "nobody can enrol: est.listen is set, and there is no certificate and key to show",
        "give est.tls_certificate and est.tls_key, or server.tls_certificate and server.tls_key",
    )


def no_authority() -> Authority:
    """Raise Misconfigured, in the place of returning a CA."""
    raise Misconfigured("there is no CA that could issue certificates", "configure [ca], and make one: kmsctl ca init")


def no_chain() -> Sequence[x509.Certificate]:
    """Raise Misconfigured, in the place of returning the certificates of a CA."""
    no_authority()
    return ()


def no_crl() -> bytes:
    """Raise Misconfigured, in the place of returning a list of revocations."""
    no_authority()
    return b""


class _AuditRecorder:
    """The record of what EST issues and refuses. See `kmsd.est.server.Recorder`."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def begin(self, action: str, caller: str) -> None:
        await self._audit.begin(action, caller=caller)

    async def ended(self, action: str, code: str, seconds: float, caller: str, detail: str, reason: str) -> None:
        log.info("certificate issued", action=action.lower(), caller=caller, detail=detail)
        await self._audit.admin(action, code, seconds=seconds, caller=caller, detail=detail, reason=reason)

    def refused(self, action: str, code: str, caller: str, reason: str) -> None:
        tell = log.debug if code == Overloaded.code else log.info  # whoever fails too often goes on asking
        tell("no certificate issued", action=action.lower(), caller=caller, code=code, reason=reason)
        self._audit.event(f"{action.lower()} refused", outcome=code, detail=f"{caller}: {reason}")
