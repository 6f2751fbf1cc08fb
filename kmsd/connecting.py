"""Have the event loop carry a socket of this process's own that is connected already."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


async def carry(make: Callable[[], asyncio.BaseProtocol], connected: socket.socket) -> asyncio.Transport:
    """Return the transport of a connected Unix socket, which closes the socket in the end. make: makes the protocol.
    Raises OSError.

    uvloop takes a socket over at the end of its own call alone. One whose transport was closed before that would be
    closed once more as garbage, when its descriptor is somebody else's: of another caller, or of a file. libuv ends the
    process where it notices that.
    """
    transport, _ = await asyncio.get_running_loop().create_unix_connection(make, sock=connected)
    if transport.is_closing():
        connected.detach()
    return transport
