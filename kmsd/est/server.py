"""The server of EST (RFC 7030): HTTP to plain types, and what came of it back to HTTP.

What has a body of its own (a certificate, a list) is base64; every refusal is one sentence of text. Decides nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from aiohttp import hdrs, web
from cryptography import x509

from kmsd.errors import Denied, Internal, InvalidRequest, KmsdError, Overloaded, Unavailable
from kmsd.est import csrattrs, tokens, wire
from kmsd.est.enrolment import Enrolment, NotProven, Outcome, Waiting
from kmsd.est.failures import Failures
from kmsd.observe import logs
from kmsd.unreadable import X509_UNREADABLE

log = logs.get_logger("kmsd.est")

SECONDS: Final = 20.0
"""Seconds for one request, with its body, the database and the token."""
_THREADS: Final = 4
_QUEUE: Final = 64
"""Requests that may wait for one of the threads."""
_RETRY: Final = 10
"""Seconds after which a caller may try again what cannot be done now."""
_CRL_SECONDS: Final = 30.0
"""Seconds for which a list of revocations is given out before it is signed anew."""
_STATUS: Final = {
    "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 403, "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
}  # fmt: skip
_UNAWARE: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL"})
"""The codes of what is wrong with kmsd, its token or its database, whose words are not for strangers."""
T = TypeVar("T")


class Recorder(Protocol):
    """The audit and the log of what is issued and refused."""

    async def begin(self, action: str, caller: str) -> None:
        """Record that something begins, if that is a condition. Raises Unavailable if it cannot be."""

    async def ended(self, action: str, code: str, seconds: float, caller: str, detail: str, reason: str) -> None:
        """Record what came of it; return when that is on the disk."""

    def refused(self, action: str, code: str, caller: str, reason: str) -> None:
        """Record that a stranger was refused, as far as there is room for strangers."""


@dataclass(frozen=True)
class Caller:
    """The other end of a request. certificate: what it has shown and TLS has verified."""

    address: str
    certificate: x509.Certificate | None

    @property
    def words(self) -> str:
        if self.certificate is None:
            return f"est address={self.address}"
        return f"est serial={self.certificate.serial_number:x} address={self.address}"


class EstServer:
    """The handlers of EST. key_type: of the keys that nodes are asked to make. chain, crl: return the CA's
    certificates, and its list of revocations as DER, on a thread; raise KmsdError. Belongs to one event loop."""

    def __init__(
        self,
        enrolment: Enrolment,
        recorder: Recorder,
        chain: Callable[[], Sequence[x509.Certificate]],
        crl: Callable[[], bytes],
        key_type: str,
    ) -> None:
        self._enrolment = enrolment
        self._recorder = recorder
        self._chain = chain
        self._sign_crl = crl
        self._crl: tuple[float, bytes] | None = None
        self._crl_turn = asyncio.Lock()
        self._attributes = wire.encode(csrattrs.wanted(key_type))
        self._failures = Failures()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="est")
        self._waiting = 0
        self._tasks: set[asyncio.Task[Outcome | Waiting]] = set()

    def application(self) -> web.Application:
        """Return the application with all paths."""
        application = web.Application(client_max_size=wire.MOST, middlewares=[self._answered])
        router = application.router
        for prefix in (wire.PREFIX, wire.PREFIX + "/{label:[A-Za-z0-9._-]{1,64}}"):
            router.add_get(f"{prefix}/cacerts", self._cacerts)
            router.add_get(f"{prefix}/csrattrs", self._csrattrs)
            router.add_post(f"{prefix}/simpleenroll", self._first)
            router.add_post(f"{prefix}/simplereenroll", self._again)
            router.add_post(f"{prefix}/serverkeygen", self._serverkeygen)
            router.add_post(f"{prefix}/fullcmc", self._fullcmc)
        router.add_get("/crl", self._crl_of)
        return application

    def close(self) -> None:
        """Begin nothing any more; what has begun in a thread is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            async with asyncio.timeout(SECONDS):
                return await handler(request)
        except KmsdError as error:
            return _refusal(error)
        except TimeoutError:
            return _text(503, "this takes too long now; try again later", {"Retry-After": str(_RETRY)})
        except web.HTTPRequestEntityTooLarge:
            return _text(413, f"a body must have {wire.MOST} bytes at most")
        except web.HTTPException as error:
            headers = {"Allow": error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
            return _text(error.status, _HTTP_WORDS.get(error.status, error.reason), headers)

    # The operations.

    async def _cacerts(self, request: web.Request) -> web.Response:
        return _body(wire.certs_only(await self._of_ca(self._chain)), wire.CERTS_ONLY)

    async def _csrattrs(self, request: web.Request) -> web.Response:
        return _body(self._attributes, wire.CSRATTRS)

    async def _first(self, request: web.Request) -> web.Response:
        caller = _caller(request)
        shown = basic(request.headers.get(hdrs.AUTHORIZATION))
        names = [_network(caller.address)]
        if shown is not None and (parts := tokens.parts(shown[1].strip())) is not None:
            names.append(f"token {parts[0]}")
        if (wait := self._failures.wait(*names)) > 0:
            self._recorder.refused("enrol", Overloaded.code, caller.words, "too many failures")
            headers = {"Retry-After": str(int(wait) + 1)}
            return _text(429, f"too many failures; try again in {int(wait) + 1} s", headers)
        body = await _read(request)
        label = request.match_info.get("label", "")

        def judge() -> Outcome | Waiting:
            return self._enrolment.first(wire.request_in(body), shown, label, caller.address)

        try:
            return await self._issued("Enrol", caller, judge)
        except (NotProven, InvalidRequest, Denied):
            self._failures.add(*names)
            raise

    async def _again(self, request: web.Request) -> web.Response:
        caller, label = _caller(request), request.match_info.get("label", "")
        present = caller.certificate
        if present is None:
            self._recorder.refused("renew", NotProven.code, caller.words, "no certificate was shown")
            return _text(403, "show the present certificate; without one, enrol with a token: simpleenroll")
        body = await _read(request)
        return await self._issued("Renew", caller, lambda: self._enrolment.again(wire.request_in(body), present, label))

    async def _serverkeygen(self, request: web.Request) -> web.Response:
        return _text(501, "keys are made by the node that they are for, and never leave it; use simpleenroll")

    async def _fullcmc(self, request: web.Request) -> web.Response:
        return _text(501, "full CMC is not spoken here; use simpleenroll")

    async def _crl_of(self, request: web.Request) -> web.Response:
        async with self._crl_turn:
            now = time.monotonic()
            if self._crl is None or now - self._crl[0] > _CRL_SECONDS:
                try:
                    self._crl = now, await self._of_ca(self._sign_crl)
                except KmsdError as error:
                    if self._crl is None:
                        raise
                    log.warning("the list of revocations that was signed last is given out", reason=error.message)
            return web.Response(body=self._crl[1], headers={hdrs.CONTENT_TYPE: "application/pkix-crl"})

    # What they have in common.

    async def _issued(self, action: str, caller: Caller, judge: Callable[[], Outcome | Waiting]) -> web.Response:
        """Answer with what `judge` says on a thread, and have it recorded before anybody gets a certificate."""
        await self._recorder.begin(action, caller.words)
        # A caller that goes away, or whose time is up, takes its certificate with it, and not the record of it.
        task = asyncio.create_task(self._recorded(action, caller, judge), name=f"est-{action}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        outcome = await asyncio.shield(task)
        match outcome:
            case Waiting():
                headers = {"Retry-After": str(outcome.seconds)}
                return _text(202, f"request {outcome.request_id} waits for an operator: kmsctl enrol pending", headers)
            case Outcome():
                return _body(wire.certs_only([outcome.certificate]), wire.CERTS_ONLY)

    async def _recorded(self, action: str, caller: Caller, judge: Callable[[], Outcome | Waiting]) -> Outcome | Waiting:
        began = time.perf_counter()
        try:
            outcome = await self._on_thread(judge)
        except KmsdError as error:
            self._recorder.refused(action, error.code, caller.words, error.reason)
            raise
        match outcome:
            case Waiting():
                self._recorder.refused(action, "WAITING", caller.words, f"request {outcome.request_id} waits")
            case Outcome(certificate, node, tenant, right):
                detail = f"node={node} tenant={tenant} serial={certificate.serial_number:x} by {right}"
                await self._recorder.ended(action, "OK", time.perf_counter() - began, caller.words, detail, "")
        return outcome

    def _ended(self, task: asyncio.Task[Outcome | Waiting]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have gone

    async def _of_ca(self, work: Callable[[], T]) -> T:
        """Return what the CA has. Raises Unavailable, whatever the reason."""
        try:
            return await self._on_thread(work)
        except KmsdError as error:
            raise Unavailable(error.message, error.hint) from error

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Do it on one of the threads. Raises Overloaded if too many wait for one."""
        if self._waiting >= _QUEUE:
            raise Overloaded("too many nodes enrol at once", "try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _contained, work)
        finally:
            self._waiting -= 1


def _contained(work: Callable[[], T]) -> T:
    try:
        return work()
    except KmsdError:
        raise
    except Exception as error:
        log.exception("enrolment failed", kind=type(error).__name__)
        raise Internal(f"kmsd failed with {type(error).__name__}", "see the log of kmsd") from error


async def _read(request: web.Request) -> bytes:
    """Return the body. Raises InvalidRequest for one that is of another kind."""
    kind = request.content_type
    if hdrs.CONTENT_TYPE in request.headers and kind not in (wire.PKCS10, "application/octet-stream"):
        raise InvalidRequest(f"the body must be {wire.PKCS10}, got {kind[:80]!r}", "set Content-Type")
    return await request.read()


def _caller(request: web.Request) -> Caller:
    transport = request.transport
    handshake = transport.get_extra_info("ssl_object") if transport is not None else None
    der = handshake.getpeercert(binary_form=True) if handshake is not None else None
    certificate = None
    if der is not None:
        with contextlib.suppress(*X509_UNREADABLE):
            certificate = x509.load_der_x509_certificate(der)
    return Caller(request.remote or "?", certificate)


def _network(address: str) -> str:
    """Return what counts as one caller: an IPv4 address, or the 64 bits of an IPv6 one that a site has."""
    with contextlib.suppress(ValueError):
        if (ip := ipaddress.ip_address(address.partition("%")[0])).version == 6:
            return str(ipaddress.ip_network((ip, 64), strict=False))
    return address


def basic(header: str | None) -> tuple[str, str] | None:
    """Return user and password of an Authorization header; None without one. Raises NotProven for any other."""
    if header is None:
        return None
    scheme, _, value = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:  # also of a header that is no ASCII
        user, colon, password = "", "", ""
    if scheme.lower() != "basic" or not colon:
        raise NotProven("only HTTP Basic is taken, with the token as the password", "curl -u NODE:TOKEN")
    return user, password


def _body(content: bytes, kind: str) -> web.Response:
    # Clients of RFC 8951 pass over the second header; those of RFC 7030 may decode nothing without it.
    headers = {hdrs.CONTENT_TYPE: kind, hdrs.CONTENT_TRANSFER_ENCODING: "base64"}
    return web.Response(body=content, headers=headers)


def _text(status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=words + "\n", headers=headers)


def _refusal(error: KmsdError) -> web.Response:
    if error.code in _UNAWARE:
        log.warning("nothing can be issued", reason=error.message, hint=error.hint)
        return _text(
            503, "the key manager cannot issue certificates now; its log says why", {"Retry-After": str(_RETRY)}
        )
    status = _STATUS.get(error.code, 400)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="enrolment token", charset="UTF-8"'
    if status == 429:
        headers["Retry-After"] = str(_RETRY)
    return _text(status, error.sentence(), headers)


_HTTP_WORDS: Final = {
    404: "there is no such path here: EST is at /.well-known/est/cacerts and beside it",
    405: "this path takes another method",
}
