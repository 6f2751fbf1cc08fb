"""Strangers that hold as many TCP connections as they get, each kind in its own way, from several addresses.

usage: python -m tests.remote.flood KIND PORT COUNT SECONDS

A connection that the other side ends is made again. Prints "full" when so many were tried, and at the end how many it
made.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import uvloop

ADDRESSES: Final = tuple(f"127.0.0.{number}" for number in range(2, 10))
_PAUSE: Final = 2.0
"""Seconds until one that was turned away comes again."""


def hello() -> bytes:
    """Return a ClientHello of TLS 1.3."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="manager.test").do_handshake()
    return outgoing.read()


HELLO: Final = hello()


async def _until_it_ends(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 4096):
            pass


async def silent(sock: socket.socket) -> None:
    """Say nothing."""
    await _until_it_ends(sock)


async def half(sock: socket.socket) -> None:
    """Begin a handshake, and never end it."""
    await asyncio.get_running_loop().sock_sendall(sock, HELLO)
    await _until_it_ends(sock)


async def slow(sock: socket.socket) -> None:
    """Begin a handshake with a byte, and go on with one now and then."""
    for number in range(len(HELLO)):
        await asyncio.get_running_loop().sock_sendall(sock, HELLO[number : number + 1])
        await asyncio.sleep(0.2)


async def gone(sock: socket.socket) -> None:
    """Begin a handshake, and go at once."""
    await asyncio.get_running_loop().sock_sendall(sock, HELLO)


KINDS: Final[dict[str, Callable[[socket.socket], Awaitable[None]]]] = {
    "silent": silent,
    "half": half,
    "slow": slow,
    "gone": gone,
}


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def main(kind: str, port: int, count: int, seconds: float) -> None:
    loop, until = asyncio.get_running_loop(), monotonic() + seconds
    tried = made = 0

    async def lane(number: int) -> None:
        nonlocal tried, made
        first = True
        while monotonic() < until:
            with socket.socket() as sock:
                sock.setblocking(False)
                try:
                    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                    sock.bind((ADDRESSES[number % len(ADDRESSES)], 0))
                    if first:
                        tried += 1
                        first = False
                        if tried == count:
                            _say("full")
                    async with asyncio.timeout(until - monotonic()):
                        await loop.sock_connect(sock, ("127.0.0.1", port))
                        made += 1
                        await KINDS[kind](sock)
                except (OSError, TimeoutError):
                    pass
            await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(lane(number) for number in range(count)))
    _say(str(made))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
