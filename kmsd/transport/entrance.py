"""How callers come to the door, and how it is proven who they are: on a Unix socket, by the kernel."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Hashable
from typing import Final, Protocol

from kmsd.transport.caller import Caller, Identity, Names
from kmsd.transport.connection import Connection

_UCRED: Final = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""


class Entrance(Protocol):
    """Brings about connections that a socket was asked for."""

    def arrived(self, accepted: socket.socket) -> tuple[Hashable, int]:
        """Return whom the connection counts for before anything is proven, and the caller's process, 0 for none.
        Raises OSError."""

    async def take(self, connection: Connection, accepted: socket.socket) -> None:
        """Connect the socket to the connection, once the caller has proven who it is. Raises OSError."""

    async def identify(self, connection: Connection) -> Identity:
        """Return who calls. The connection counts for the caller from now on."""


class UnixEntrance:
    """On a Unix socket the kernel says who connects (SO_PEERCRED, unix(7)). named: whether users' names are wanted."""

    def __init__(self, *, named: bool = True) -> None:
        self._names = Names() if named else None

    def arrived(self, accepted: socket.socket) -> tuple[Hashable, int]:
        pid, uid, _ = _UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return uid, pid

    async def take(self, connection: Connection, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)

    async def identify(self, connection: Connection) -> Identity:
        uid = int(str(connection.user))
        return Caller(uid, await self._names.name(uid) if self._names is not None else "?", connection.pid)
