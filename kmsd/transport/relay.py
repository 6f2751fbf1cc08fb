"""Who calls: the kernel's word on every connection to a Unix socket, for a gRPC server that cannot ask for it.

gRPC core tells a handler nothing of its caller but the name that the caller's end of the connection is bound to. So
kmsd listens itself, asks the kernel who connects (SO_PEERCRED, unix(7)), and carries the bytes to gRPC over a second
connection, whose own end it binds to a name that is made for it alone. By that name a handler finds who calls.

gRPC's own socket has no path: it is taken out of the file system as soon as it is bound, and reached through a file
descriptor of this process (/proc/self/fd, proc(5)). Whoever gets there in spite of that, root at most, is refused,
because nobody vouches for the name of that connection. Knows nothing of gRPC and nothing of HTTP/2.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import secrets
import shutil
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd.errors import Denied, Misconfigured
from kmsd.observe import logs

log = logs.get_logger("kmsd.transport")

CONNECTIONS: Final = 256
"""Connections at once; those of root and of kmsd's own user are taken beyond that."""
SHARE: Final = 64
"""Connections at once of one user."""
_BLOCK: Final = 65536
"""Bytes that are read at once; about twice as many may wait to be written."""
_STALL_SECONDS: Final = 60.0
"""For a caller to read some of what waits for it. HTTP/2's own windows keep one that is merely slow far from this."""
_LAST_SECONDS: Final = 1.0
"""For the last bytes of a connection whose other side has ended."""
_ON_ITS_WAY_SECONDS: Final = 0.2
"""For the last answers of a server that answers no more, to those who stay connected."""
_NAME_SECONDS: Final = 1.0
"""For the name of a user, which may come from another machine."""
_NAME_KEPT: Final = 60.0
_QUIET_SECONDS: Final = 60.0
"""Between two warnings of connections that are refused."""
_MOST_WORD: Final = 64
_STRANGE: Final = re.compile(r"[^A-Za-z0-9._+@/\\:()-]")
"""Whatever could end a word of a caller, or make another of its kind: blanks and the equals sign above all."""
_UCRED: Final = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""


@dataclass(frozen=True)
class Caller:
    """A process as the kernel saw it when it connected. user: name of the uid, "?" if it has none."""

    uid: int
    user: str
    pid: int

    def told(self, claim: str) -> str:
        """In words. claim: what the program says to be called; all else is the kernel's word."""
        return f"{word(claim) or '-'} uid={self.uid} user={self.user}"


def word(text: str) -> str:
    """The first word of a text, cut to a bounded length, without what could be taken for more than one word."""
    return _STRANGE.sub("?", text.split(" ", 1)[0][:_MOST_WORD])


class Relay:
    """Between the callers of one Unix socket and a server that is told who they are.

    connections, share: as CONNECTIONS and SHARE. Belongs to one event loop.
    """

    def __init__(self, *, connections: int = CONNECTIONS, share: int = SHARE) -> None:
        self._most = connections
        self._share = share
        self._callers: dict[str, Caller] = {}
        self._running: dict[asyncio.Task[None], int] = {}
        self._names: dict[int, tuple[str, float]] = {}
        self._listening: socket.socket | None = None
        self._room = self._door = -1
        self._refused = 0
        self._told_at = -_QUIET_SECONDS

    def hide(self, directory: Path, serve: Callable[[str], object]) -> None:
        """Have `serve` bind the server's socket, and take its path away. directory: where a folder can be made for a
        moment. Raises Misconfigured."""
        try:
            private = Path(tempfile.mkdtemp(prefix=".k", dir=directory))
            try:
                # Kept, so that the path leads nowhere when the server removes it at its end.
                self._room = os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                serve(f"/proc/self/fd/{self._room}/s")
                self._door = os.open("s", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._room)
            finally:
                shutil.rmtree(private, ignore_errors=True)
        except (OSError, RuntimeError) as error:
            raise Misconfigured(
                f"kmsd cannot make a socket of its own in {directory}: {error}",
                "let kmsd's user write there, and see /proc",
            ) from error

    def listen(self, path: str) -> None:
        """Take callers on a socket at this path, and no more on an earlier one. Raises OSError."""
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fresh.setblocking(False)
            fresh.bind(path)
            fresh.listen(self._most)
        except BaseException:
            fresh.close()
            raise
        self.deafen()
        self._listening = fresh
        asyncio.get_running_loop().add_reader(fresh, self._accept, fresh)

    def deafen(self) -> None:
        """Take no more callers."""
        listening, self._listening = self._listening, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    async def close(self) -> None:
        """End every connection, after a moment for what is on its way. The server answers no more."""
        self.deafen()
        left = tuple(self._running)
        if left:
            await asyncio.wait(left, timeout=_ON_ITS_WAY_SECONDS)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for handle in (self._room, self._door):
            if handle != -1:
                os.close(handle)
        self._room = self._door = -1

    def caller(self, peer: str) -> Caller:
        """Who calls. peer: name of the connection's other end, as gRPC tells it. Raises Denied if nobody knows."""
        found = self._callers.get(peer)
        if found is None:
            raise Denied(
                "nobody knows who calls: this connection was not made through kmsd's socket",
                "connect to the admin socket (kmsctl --target)",
            )
        return found

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # No file descriptors are left: whoever waits goes on waiting, and the loop does not spin.
            log.warning("no connection can be taken now", reason=error.strerror)
            loop.remove_reader(listening)
            loop.call_later(_LAST_SECONDS, self._accept_again, listening)
            return
        try:
            connection.setblocking(False)
            pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        except OSError:
            connection.close()
            return
        if self._full(uid):
            connection.close()
            self._tell_refused(uid)
            return
        task = loop.create_task(self._carry(connection, uid, pid))
        self._running[task] = uid
        task.add_done_callback(self._running.pop)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening is self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _full(self, uid: int) -> bool:
        held = Counter(self._running.values())
        return held[uid] >= self._share or (held.total() >= self._most and uid not in (0, os.geteuid()))

    def _tell_refused(self, uid: int) -> None:
        self._refused += 1
        if monotonic() - self._told_at >= _QUIET_SECONDS:
            log.warning("connections are refused: there are too many", refused=self._refused, uid=uid, each=self._share)
            self._refused, self._told_at = 0, monotonic()

    async def _carry(self, connection: socket.socket, uid: int, pid: int) -> None:
        """Both ways, until one side ends."""
        name = f"kmsd-{secrets.token_hex(16)}"
        peer = f"unix-abstract:{name}"
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        transports: list[asyncio.WriteTransport] = []
        try:
            self._callers[peer] = Caller(uid, await self._name(uid), pid)
            inner.setblocking(False)
            inner.bind(f"\0{name}")
            inner.connect(f"/proc/self/fd/{self._door}")
            near_reader, near = await asyncio.open_unix_connection(sock=connection, limit=_BLOCK)
            transports.append(near.transport)
            far_reader, far = await asyncio.open_unix_connection(sock=inner, limit=_BLOCK)
            transports.append(far.transport)
            await _both(_copy(near_reader, far), _copy(far_reader, near))
            near.close()
            async with asyncio.timeout(_LAST_SECONDS):
                await near.wait_closed()
        except (OSError, TimeoutError, RuntimeError):
            pass  # one side has gone, which uvloop calls a RuntimeError, or takes nothing any more
        finally:
            # Before the name is free again.
            self._callers.pop(peer, None)
            for transport in transports:
                transport.abort()
            for end in (connection, inner):
                end.close()

    async def _name(self, uid: int) -> str:
        name, until = self._names.get(uid, ("", 0.0))
        if monotonic() >= until:
            name = "?"
            with suppress(TimeoutError):
                async with asyncio.timeout(_NAME_SECONDS):
                    name = await asyncio.to_thread(_user, uid)
            if len(self._names) >= self._most:
                self._names.clear()
            self._names[uid] = name, monotonic() + _NAME_KEPT
        return name


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        async with asyncio.timeout(_STALL_SECONDS):
            await writer.drain()
    writer.write_eof()


async def _both(there: Coroutine[None, None, None], back: Coroutine[None, None, None]) -> None:
    """Run both ways until the way back has ended; it is given a moment once the way there has. Raises OSError and
    TimeoutError of the way back."""
    first, last = asyncio.create_task(there), asyncio.create_task(back)
    try:
        await asyncio.wait((first, last), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((last,), timeout=_LAST_SECONDS)
        if last.done():
            last.result()
    finally:
        first.cancel()
        last.cancel()
        await asyncio.gather(first, last, return_exceptions=True)


def _user(uid: int) -> str:
    try:
        return word(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return "?"
