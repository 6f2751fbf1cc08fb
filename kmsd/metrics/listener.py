"""The place where kmsd answers HTTP, a port or a Unix socket, and bounds on what strangers can take up there.

One connection more than there may be ends the oldest, so that a probe is heard whoever else holds connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from aiohttp import web

from kmsd.errors import KmsdError, Unavailable
from kmsd.transport.sockets import SocketPlace, SocketWatch

CONNECTIONS: Final = 64
LIFE_SECONDS: Final = 60.0
"""Seconds after which a connection is ended, whatever is under way on it."""
_IDLE_SECONDS: Final = 30.0
_AGAIN: Final = 1.0
"""Seconds between two tries to have the place."""
_HEADER_MOST: Final = 8190
_BACKLOG: Final = 128
_STOP_SECONDS: Final = 2.0


class HttpListener:
    """The listener of one place. address: "host:port", or "unix:" and a path. group: that owns the socket, whose mode
    is 0660 then; empty: 0600. told: called when the place is had, and with the problem when one arises.

    where: the place as others name it.
    """

    def __init__(
        self, address: str, group: str, application: web.Application, told: Callable[[KmsdError | None], None]
    ) -> None:
        self._problem: KmsdError | None = None
        self._watch: SocketWatch | None = None
        self._address = address
        self._group = group
        self._told = told
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=0.0,
            logger=_silent(),
            max_line_size=_HEADER_MOST,
            max_field_size=_HEADER_MOST,
            shutdown_timeout=_STOP_SECONDS,
        )
        self._open: dict[_Bounded, None] = {}
        self._server: asyncio.Server | None = None
        self._place: SocketPlace | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def problem(self) -> KmsdError | None:
        """The reason why nobody can connect; None if there is none."""
        return self._problem or (self._watch.problem if self._watch is not None else None)

    @property
    def where(self) -> str:
        return self._address if self._address.startswith("unix:") else f"http://{self._address}"

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Begin to listen as soon as that can be done."""
        await self._runner.setup()
        await self._try()
        self._keeping = asyncio.create_task(self._keep(), name="metrics-listener")

    async def stop(self) -> None:
        """Listen no more, and end what is under way."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._place is not None:
            self._place.release()
        for each in tuple(self._open):
            each.end()
        await self._runner.cleanup()

    async def _keep(self) -> None:
        while not self.is_open:
            await asyncio.sleep(_AGAIN)
            await self._try()
        if self._place is not None:
            self._watch = SocketWatch(self._place, self._listen, lambda what: self._told(None))
            await self._watch.run()

    async def _try(self) -> None:
        """Listen, or say in `problem` why not."""
        try:
            if self._place is None and self._address.startswith("unix:"):
                path = Path(self._address.removeprefix("unix:"))
                self._place = SocketPlace(path, 0o660 if self._group else 0o600, self._group)
            if self._place is not None:
                # Claiming may wait for whoever has the place now.
                await asyncio.to_thread(self._place.claim)
            await self._listen()
        except (KmsdError, OSError) as error:
            words = error.message if isinstance(error, KmsdError) else (error.strerror or str(error)).lower()
            hint = error.hint if isinstance(error, KmsdError) else "free the port, or choose another (observe.listen)"
            problem = Unavailable(f"nothing answers at {self.where}: {words}", f"{hint}; kmsd tries again every second")
            if self._problem is None or problem.kind != self._problem.kind:
                self._told(problem)
            self._problem = problem
        else:
            self._problem = None
            self._told(None)

    async def _listen(self) -> None:
        listening = await self._bound()
        old, self._server = self._server, await asyncio.get_running_loop().create_server(
            self._connection, sock=listening, backlog=_BACKLOG
        )  # fmt: skip
        if old is not None:
            old.close()

    async def _bound(self) -> socket.socket:
        if self._place is not None:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

            def listen(path: str) -> None:
                listening.bind(path)
                listening.listen(_BACKLOG)  # before anybody sees the socket in its place

            try:
                self._place.bind(listen)
            except BaseException:
                listening.close()
                raise
            return listening
        host, _, port = self._address.rpartition(":")
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
        return listening

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            raise ConnectionRefusedError("the server has ended")
        return _Bounded(server(), self._open)


class _Bounded(asyncio.Protocol):
    """A connection of aiohttp's that ends after LIFE_SECONDS, and when it is the oldest of too many. open: all that are
    open, the oldest first."""

    def __init__(self, inner: asyncio.Protocol, open_: dict[_Bounded, None]) -> None:
        self._inner = inner
        self._open = open_
        self._transport: asyncio.Transport | None = None
        self._life: asyncio.TimerHandle | None = None
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, at the cost of the oldest if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        self._life = asyncio.get_running_loop().call_later(LIFE_SECONDS, self.end)
        self._inner.connection_made(transport)
        self._open[self] = None
        if len(self._open) > CONNECTIONS:
            next(iter(self._open)).end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._open.pop(self, None)
        if self._life is not None:
            self._life.cancel()
        self._inner.connection_lost(exc)

    def end(self) -> None:
        """End the connection at once."""
        self._open.pop(self, None)
        if self._transport is not None:
            self._transport.abort()


def _silent() -> logging.Logger:
    """Return a logger that says nothing: what strangers send is no news."""
    logger = logging.Logger("kmsd.metrics.aiohttp")
    logger.addHandler(logging.NullHandler())
    return logger
