"""The port of EST: TLS 1.3, with a client certificate or without, and bounds on what strangers can take up.

One connection lives for so long at the most, whatever it does: a node asks for a few things and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.observe import logs
from kmsd.transport.tls import OwnCertificate, TlsFiles, TlsMaterial

log = logs.get_logger("kmsd.est")

HANDSHAKE_SECONDS: Final = 5.0
LIFE_SECONDS: Final = 60.0
"""Seconds after which a connection is ended, whatever is under way on it."""
_IDLE_SECONDS: Final = 15.0
_AGAIN: Final = 1.0
"""Seconds between two looks at the files, and between two tries to open a port that is taken."""
_CHAIN_SECONDS: Final = 5.0
"""Seconds between two looks at the CA's certificates."""
_HEADER_MOST: Final = 8190
_SHARE: Final = 4
"""One address may have one of so many connections."""

Chain = Sequence[x509.Certificate]


class EstListener:
    """The listener of one port, which opens when its TLS files can be used.

    certificate, key: of this side, read anew when they change. chain: the certificates that callers' ones are checked
    against; raises KmsdError while there are none: then nobody can show one. connections: at once, of all callers.
    refused: called with the address of a caller that TLS did not let in, and why. told: called with None when the port
    is open, and with the problem when one arises.
    """

    def __init__(
        self,
        address: str,
        certificate: Path,
        key: Path,
        application: web.Application,
        *,
        chain: Callable[[], Chain],
        connections: int,
        refused: Callable[[str, str], None],
        told: Callable[[KmsdError | None], None],
        taken: Callable[[OwnCertificate], None],
    ) -> None:
        self.where = f"https://{address}"
        self.problem: KmsdError | None = None
        self.material = TlsMaterial(TlsFiles(certificate, certificate, key), server=True, changed=taken)
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._chain_of = chain
        self._chain: Chain | None = None
        self._chain_due = 0.0
        self._context: ssl.SSLContext | None = None
        self._made_of: object = None
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_IDLE_SECONDS,
            max_line_size=_HEADER_MOST,
            max_field_size=_HEADER_MOST,
            shutdown_timeout=2.0,
        )
        self._most = connections
        self._of_address: Counter[str] = Counter()
        self._refused = refused
        self._told = told
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return bool(self._sockets)

    @property
    def port(self) -> int:
        """The port, also if 0 was asked for."""
        port: int = self._sockets[0].getsockname()[1] if self._sockets else self._port
        return port

    async def start(self) -> None:
        """Begin to listen as soon as that can be done."""
        await self._runner.setup()
        await self._look()
        self._begin(self._keep())

    async def stop(self) -> None:
        """Listen no more, and end what is under way."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            await self._look()

    async def _look(self) -> None:
        """Look at the files and the chain, and open the port if that can be done."""
        await self.material.look()
        problem = self.material.problem
        if self._chain is None or time.monotonic() >= self._chain_due:
            self._chain_due = time.monotonic() + _CHAIN_SECONDS
            with contextlib.suppress(KmsdError):
                self._chain = tuple(await asyncio.to_thread(self._chain_of))
        loaded = self.material.loaded
        if loaded is not None and (loaded.pem, self._chain) != self._made_of:
            try:
                self._context = await asyncio.to_thread(_context, self.material.files, self._chain or ())
                self._made_of = (loaded.pem, self._chain)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                words = f"the TLS files of EST cannot be used: {getattr(error, 'reason', None) or error}"
                problem = Misconfigured(words, "kmsd tries again every second")
        if not self._sockets and self._context is not None:
            try:
                await self._open()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                problem = Unavailable(
                    f"nothing listens on {self.where}: {why}",
                    "free the port, or choose another (est.listen); kmsd tries again every second",
                )
            else:
                self._told(None)
        if problem is not None and (self.problem is None or problem.kind != self.problem.kind):
            self._told(problem)
        self.problem = problem

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
        self._sockets.append(listening)
        self._begin(self._accept(listening))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                if not self._sockets:
                    return
                log.warning("a connection was not accepted", reason=error.strerror)
                await asyncio.sleep(_AGAIN)
                continue
            host = str(address[0])
            full = self._of_address.total() >= self._most
            if full or self._of_address[host] >= max(2, self._most // _SHARE):
                accepted.close()
                self._refused(host, "there are too many connections" + ("" if full else " of this address"))
                continue
            self._of_address[host] += 1
            self._begin(self._serve(accepted, host))

    async def _serve(self, accepted: socket.socket, host: str) -> None:
        """Take one connection from the handshake to its end."""
        ended = asyncio.Event()
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Counted(self._protocol(), ended.set), accepted, ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )  # fmt: skip
            try:
                async with asyncio.timeout(LIFE_SECONDS):
                    await ended.wait()
            except TimeoutError:
                pass
            finally:
                transport.abort()
        except (OSError, TimeoutError) as error:
            accepted.close()
            if why := _why(error):
                self._refused(host, why)
        finally:
            self._of_address[host] -= 1
            if not self._of_address[host]:
                del self._of_address[host]

    def _protocol(self) -> asyncio.Protocol:
        if self._runner.server is None:
            raise ConnectionRefusedError("the server has ended")
        return self._runner.server()

    def _begin(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Counted(asyncio.Protocol):
    """A connection of aiohttp's that tells its end."""

    def __init__(self, inner: asyncio.Protocol, ended: Callable[[], None]) -> None:
        self._ended = ended
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.connection_made = inner.connection_made  # type: ignore[method-assign]
        self._inner = inner

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._inner.connection_lost(exc)
        self._ended()


def _context(files: TlsFiles, chain: Chain) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    context.load_cert_chain(files.certificate, files.key)
    if chain:
        # A certificate that is shown must be good; one that is not shown leaves the token (RFC 7030 3.3).
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata="".join(each.public_bytes(Encoding.PEM).decode() for each in chain))
    return context


def _why(error: BaseException) -> str:
    """Return why a handshake failed, in words; empty for a caller that only went away."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not taken: {error.verify_message}"
        case ssl.SSLError():
            return f"the TLS handshake failed ({error.reason or 'no reason given'})"
        case TimeoutError() | ConnectionAbortedError():
            return f"it did not finish the TLS handshake in {HANDSHAKE_SECONDS:.0f} s"
    return ""
