"""Sockets that serve tables of methods: their places, the door before the servers, and their end. Knows no server.

A server is given a socket that nobody else reaches, and asks `Dispatch` for every answer; see `kmsd.transport.grpcio`
and `kmsd.transport.h2corn`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from kmsd.transport.call import Observer, Table
from kmsd.transport.dispatch import Admission, Dispatch
from kmsd.transport.entrance import Entrance, UnixEntrance
from kmsd.transport.health import Health
from kmsd.transport.relay import CONNECTIONS, Relay
from kmsd.transport.sockets import SocketPlace, SocketWatch


class Server(Protocol):
    """A server that speaks gRPC on one Unix socket. told: whether a PROXY header names each connection to it."""

    told: bool

    def takes(self, authority: str) -> bool:
        """Return whether the server answers requests to this `:authority`."""

    def bind(self, path: str) -> None:
        """Make the socket at this path. Raises OSError and RuntimeError."""

    async def start(self) -> None:
        """Serve on the socket."""

    async def stop(self) -> None:
        """Serve no more. Whoever was connected has been let go before."""


class Serving:
    """The part that every listener has: the door, and the servers behind it.

    entrance: the way by which callers come in. servers: functions that make the servers, the preferred one first; the
    last takes whatever no other does. services: full names for grpc.health.v1. timeout: seconds for a call whose caller
    names no shorter time. observe: the observer of the calls. proven: whether handlers are told who calls. admission:
    decides who may call what; None: whoever gets in may call everything. of_tenant: as of `Health`. connections: how
    many there may be at once.
    """

    def __init__(
        self,
        entrance: Entrance,
        tables: Iterable[Table],
        *,
        servers: Sequence[Callable[[Dispatch], Server]],
        services: Sequence[str],
        timeout: float,
        observe: Observer,
        proven: bool,
        admission: Admission | None = None,
        of_tenant: Callable[[str], bool] | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self.relay = Relay(entrance, connections=connections)
        self.health = Health(services, of_tenant)
        told = self.relay if proven else None
        self._dispatch = Dispatch((*tables, self.health.table()), timeout, observe, told, admission)
        self._servers = [make(self._dispatch) for make in servers]

    async def start(self, directory: Path) -> None:
        """Start the servers; nobody reaches them yet. directory: a place where a folder can be made for a moment."""
        for server in self._servers:
            self.relay.hide(directory, server.bind, server.takes, told=server.told)
            await server.start()

    async def stop(self, grace: float) -> None:
        """End the streams, refuse new calls, and give those that have begun `grace` seconds to end by themselves.

        After that they end with an error that says why. Whoever stays connected is asked to make no further calls, and
        told that kmsd stops if it makes them.
        """
        self.relay.deafen()
        self.relay.say_goodbye("kmsd is stopping")
        self.health.stop()
        await self._dispatch.stop(grace)
        await self.relay.close()
        for server in self._servers:
            await server.stop()


class Listener:
    """A listener on one Unix socket.

    place: where the socket is. apis: short names for people. remade: called when the socket was made again, with its
    path and what had become of it, in words. The rest is as of `Serving`.
    """

    def __init__(
        self,
        place: SocketPlace,
        tables: Iterable[Table],
        *,
        servers: Sequence[Callable[[Dispatch], Server]],
        apis: Sequence[str],
        services: Sequence[str],
        timeout: float,
        observe: Observer,
        remade: Callable[[Path, str], None],
        proven: bool = False,
    ) -> None:
        self.place = place
        self.apis = tuple(apis)
        self.watch = SocketWatch(place, self._listen, lambda what: remade(place.path, what))
        self._serving = Serving(
            UnixEntrance(named=proven),
            tables,
            servers=servers,
            services=services,
            timeout=timeout,
            observe=observe,
            proven=proven,
        )
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind the socket, serve on it, and watch it. Its place must have been claimed."""
        await self._serving.start(self.place.path.parent)
        await self._listen()
        self._watching = asyncio.create_task(self.watch.run(), name="socket-watch")

    async def _listen(self) -> None:
        self.place.bind(self._serving.relay.listen)

    def set_serving(self, serving: bool) -> None:
        """Set what grpc.health.v1 answers from now on, for every service of this socket."""
        self._serving.health.set_serving(serving)

    async def stop(self, grace: float) -> None:
        """Stop as `Serving.stop` does, and remove the socket."""
        if self._watching is not None:
            self._watching.cancel()
        await self._serving.stop(grace)
        self.place.release()
