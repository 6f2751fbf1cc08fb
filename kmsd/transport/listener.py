"""One socket that serves a table of methods: its place, the door before the server, and its end. Knows no server.

A server is given a socket that nobody else reaches, and asks `Dispatch` for every answer; see `kmsd.transport.grpcio`
and `kmsd.transport.h2corn`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from kmsd.transport.call import Observer, Table
from kmsd.transport.dispatch import Dispatch
from kmsd.transport.entrance import UnixEntrance
from kmsd.transport.health import Health
from kmsd.transport.relay import Relay
from kmsd.transport.sockets import SocketPlace, SocketWatch


class Server(Protocol):
    """Speaks gRPC on one Unix socket."""

    def takes(self, authority: str) -> bool:
        """Return whether it answers requests to this `:authority`."""

    def bind(self, path: str) -> None:
        """Make the socket at this path. Raises OSError and RuntimeError."""

    async def start(self) -> None:
        """Serve on it."""

    async def stop(self) -> None:
        """Serve no more. Whoever is connected has been let go."""


class Listener:
    """One socket. apis: short names for people; services: full names for grpc.health.v1.

    servers: make the servers, the preferred one first; the last takes whatever no other does. timeout: seconds for a
    call whose caller names no shorter time. remade: told, in words, what had become of the socket when it was made
    again. proven: whether handlers are told who calls, by the kernel's word.
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
        self._health = Health(services)
        self._relay = Relay(UnixEntrance(named=proven))
        self._dispatch = Dispatch((*tables, self._health.table()), timeout, observe, self._relay if proven else None)
        self._servers = [make(self._dispatch) for make in servers]
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve. The place has been claimed."""
        for server in self._servers:
            self._relay.hide(self.place.path.parent, server.bind, server.takes)
            await server.start()
        await self._listen()
        self._watching = asyncio.create_task(self.watch.run(), name="socket-watch")

    async def _listen(self) -> None:
        self.place.bind(self._relay.listen)

    def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers from now on, for every service of this socket."""
        self._health.set_serving(serving)

    async def stop(self, grace: float) -> None:
        """End the streams, refuse new calls, give those that have begun `grace` seconds and then an error that says
        why, and remove the socket.

        Whoever stays connected is asked for no further calls, and told that kmsd stops if it makes them.
        """
        if self._watching is not None:
            self._watching.cancel()
        self._relay.deafen()
        self._relay.say_goodbye("kmsd is stopping")
        self._health.set_serving(False)
        await self._dispatch.stop(grace)
        await self._relay.close()
        for server in self._servers:
            await server.stop()
        self.place.release()
