"""The entrance of callers from other machines: they come by TCP, and a certificate says who they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Hashable
from typing import Final

from kmsd.transport.caller import Identity
from kmsd.transport.connection import Connection
from kmsd.transport.peers import peer_of
from kmsd.transport.tls import TlsMaterial
from kmsd.transport.turns import Turns

HANDSHAKE_SECONDS: Final = 5.0
"""Seconds in which a caller must prove who it is, from its turn on."""
_HANDSHAKES: Final = 250
"""Handshakes that are begun in a second at the most: each costs more than a call, and who is served already must not
wait for those who are not. Addresses take turns."""
_AT_ONCE: Final = 50
"""Handshakes that are begun at once after a quiet while."""


class TlsEntrance:
    """An entrance by TCP: a certificate says who connects, by TLS 1.3 alone.

    refused: called with the address of a caller that was not let in, and why. A caller that has proven nothing yet
    counts for its IP address.
    """

    def __init__(self, material: TlsMaterial, refused: Callable[[str, str], None]) -> None:
        self._material = material
        self._refused = refused
        self._turns = Turns(_HANDSHAKES, _AT_ONCE)

    def arrived(self, accepted: socket.socket) -> tuple[Hashable, int]:
        """Return the IP address of the caller, and 0 for its process. Raises OSError."""
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return accepted.getpeername()[0], 0

    async def take(self, connection: Connection, accepted: socket.socket) -> None:
        """Connect the socket to the connection after the handshake, for which it waits for its turn. Raises OSError.

        `refused` is told why a handshake failed, unless the caller only went away.
        """
        loaded = self._material.loaded
        host, port, *_ = accepted.getpeername()
        if loaded is None:
            raise ConnectionRefusedError("there are no TLS files that can be used")
        await self._turns.turn(host)
        handshake = asyncio.ensure_future(
            asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=loaded.context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        )
        try:
            await asyncio.shield(handshake)
        except (OSError, TimeoutError) as error:
            if why := _why(error):
                self._refused(f"{host}:{port}", why)
            raise ConnectionAbortedError(str(error)) from error
        except asyncio.CancelledError:
            # uvloop, cancelled in the middle, would keep the socket for ever. So the handshake has to fail by itself.
            handshake.add_done_callback(lambda done: done.cancelled() or done.exception())
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
            raise

    async def identify(self, connection: Connection) -> Identity:
        """Return who calls, by its certificate, and have the connection count for that name. Raises OSError."""
        handshake = connection.told_of("ssl_object")
        host, port, *_ = connection.told_of("peername") or ("?", 0)
        certificate = handshake.getpeercert(binary_form=True) if handshake is not None else None
        if certificate is None:
            raise ConnectionAbortedError("there is no certificate")
        try:
            version, cipher = handshake.version() or "?", (handshake.cipher() or ("?",))[0]
            group = getattr(handshake, "group", "")
            peer = peer_of(certificate, f"{host}:{port}", version, cipher, group)
        except ValueError as error:
            self._refused(f"{host}:{port}", f"its certificate cannot be read: {error}")
            raise ConnectionAbortedError from error
        connection.counts_for(peer.name)
        return peer


_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate; every caller needs one of --tls-ca's",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "it does not speak TLS 1.3",
    "HTTP_REQUEST": "it speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "NO_SHARED_CIPHER": "it takes no cipher of TLS 1.3",
}


def _why(error: BaseException) -> str:
    """Return why a handshake failed, in words; empty for a caller that only went away."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not taken: {error.verify_message}"
        case ssl.SSLError():
            reason = error.reason or "the handshake failed"
            return _REASONS.get(reason, f"the TLS handshake failed ({reason})")
        case TimeoutError() | ConnectionAbortedError():
            return f"it did not finish the TLS handshake in {HANDSHAKE_SECONDS:.0f} s"
    return ""
