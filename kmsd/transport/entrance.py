"""The entrance by which callers come to the door and prove who they are: on a Unix socket the kernel says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Hashable
from typing import Final, Protocol

from kmsd.transport.caller import Caller, Identity, Names
from kmsd.transport.connection import Connection

_UCRED: Final = struct.Struct("iII")
"""The kernel's struct ucred: pid, uid, gid."""


class Entrance(Protocol):
    """The way in which the connections that a socket was asked for come about."""

    def arrived(self, accepted: socket.socket) -> tuple[Hashable, int]:
        """Return whom the connection counts for before anything is proven, and the caller's process.

        The process is 0 for a caller on another machine. Raises OSError.
        """

    async def take(self, connection: Connection, accepted: socket.socket) -> None:
        """Connect the socket to the connection once the caller has proven who it is. Raises OSError."""

    async def identify(self, connection: Connection) -> Identity:
        """Return who calls. The connection counts for that caller from now on. Raises OSError."""


class UnixEntrance:
    """An entrance by a Unix socket: the kernel says who connects (SO_PEERCRED, unix(7)).

    named: whether users' names are wanted.
    """

    def __init__(self, *, named: bool = True) -> None:
        self._names = Names() if named else None

    def arrived(self, accepted: socket.socket) -> tuple[Hashable, int]:
        """Return the user and the process that connected, as the kernel tells them. Raises OSError."""
        pid, uid, _ = _UCRED.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return uid, pid

    async def take(self, connection: Connection, accepted: socket.socket) -> None:
        """Connect the socket to the connection. Raises OSError."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)

    async def identify(self, connection: Connection) -> Identity:
        """Return the user and the process that connected, with the user's name if it is wanted."""
        uid = int(str(connection.user))
        return Caller(uid, await self._names.name(uid) if self._names is not None else "?", connection.pid)
