"""Name a connection to a server that reads the PROXY protocol, version 2
(https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt, 2.2).

The address in it is no machine's: it is a name, made for the connection alone, which the server tells its handlers as
that of the client.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXIED: Final = 0x21
"""Version 2, and a connection that is made for somebody else."""
_TCP_6: Final = 0x21
_OURS: Final = b"\xfd"
"""The first byte of addresses that are private to a site (RFC 4193, 3.1)."""


def introduce(connection: socket.socket) -> str:
    """Send the header as the first bytes of a connection; return the name that is in it. Raises OSError."""
    address = ipaddress.IPv6Address(_OURS + secrets.token_bytes(15))
    addresses = address.packed + bytes(16) + struct.pack(">HH", 0, 0)
    header = _SIGNATURE + struct.pack(">BBH", _PROXIED, _TCP_6, len(addresses)) + addresses
    if connection.send(header) != len(header):
        raise ConnectionAbortedError
    return str(address)
