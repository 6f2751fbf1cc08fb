"""The door before a server: it learns by proof who calls, and bounds how much each may ask of the server behind it.

A gRPC server tells a handler nothing of its caller but the name that the caller's end of the connection is bound to,
and bounds what it takes by connection, if at all. So kmsd listens itself, has it proven who connects (`entrance`), and
carries the frames to the server over a second connection, whose own end it binds to a name that is made for it alone.
By that name a handler finds who calls. There may be several servers: the first that takes what the first request of a
connection is addressed to has it.

A server's own socket has no path: it is taken out of the file system as soon as it is bound, and reached through a
file descriptor of this process (/proc/self/fd, proc(5)). Whoever gets there in spite of that, root at most, is refused
by the admin API, because nobody vouches for the name of that connection. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import select
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd.connecting import carry
from kmsd.errors import Denied, Misconfigured
from kmsd.observe import logs
from kmsd.transport import proxied
from kmsd.transport.burden import ROOM, Burden
from kmsd.transport.caller import Identity
from kmsd.transport.connection import WHOLE_SECONDS, Connection, Far
from kmsd.transport.entrance import Entrance, UnixEntrance
from kmsd.transport.frames import Reason, goaway

log = logs.get_logger("kmsd.transport")

CONNECTIONS: Final = 256
"""Connections that one socket may have at once."""
_BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are taken, if net.core.somaxconn allows."""
_BLOCK: Final = 16 * 1024
"""Bytes that are read at once. About as many of a connection are kept while it waits."""
_FOR_OTHERS: Final = 128
"""Descriptors that are kept for all that is no connection."""
_EACH: Final = 6
"""Descriptors for one connection: those of both its sides and of the server, for each of two sockets."""
_ON_ITS_WAY_SECONDS: Final = 0.2
"""Seconds for the last answers of a server that answers no more to reach those who stay connected."""
_AGAIN_SECONDS: Final = 0.1
"""Seconds between two looks at who waits, and who is overdue."""
_REST_SECONDS: Final = 1.0
"""Seconds between them while nobody waits, and nothing is half done."""
_DIALS: Final = 64
"""Connections to the server that are made between two looks at the most: one costs the server more than a call does."""
_ACCEPTS: Final = 4
"""Callers that are taken before others have their turn."""
_DROPS: Final = 256
"""Callers that have gone who are let go at one look: thousands at once would keep the others waiting."""
_GRACE: Final = 0.03
"""Seconds in which a caller that has connected may say something before it is let go for another."""
_FULL_SECONDS: Final = 0.005
"""Seconds until kmsd looks again, when all connections are in use, whether there is one to let go."""
_RETRY_SECONDS: Final = 1.0
"""Seconds until kmsd tries again to take a connection, when there are no descriptors."""
_QUIET_SECONDS: Final = 60.0
"""Seconds between two warnings of one kind."""


class _Behind:
    """The socket of a server, which has no path any more.

    directory, serve, takes, told: as of `Relay.hide`. path: the one by which this process still
    reaches the socket. Raises OSError and RuntimeError.
    """

    def __init__(
        self, directory: Path, serve: Callable[[str], object], takes: Callable[[str], bool], *, told: bool
    ) -> None:
        self.takes = takes
        self.told = told
        self._handles: list[int] = []
        private = Path(tempfile.mkdtemp(prefix=".k", dir=directory))
        try:
            # This descriptor is kept, so that the path leads nowhere when the server removes it at its end.
            room = os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._handles.append(room)
            serve(f"/proc/self/fd/{room}/s")
            self._handles.append(os.open("s", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=room))
        except BaseException:
            self.close()
            raise
        finally:
            shutil.rmtree(private, ignore_errors=True)

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self._handles[-1]}"

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()


class Relay:
    """The door between the callers of one socket and one server, or several. Belongs to one event loop.

    entrance: the way by which callers come in; by default a Unix socket. connections: how many there may be at once;
    where there are few descriptors, fewer are allowed. room: bytes that all of them may weigh together.
    """

    def __init__(self, entrance: Entrance | None = None, *, connections: int = CONNECTIONS, room: int = ROOM) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = connections if soft == resource.RLIM_INFINITY else max(8, (soft - _FOR_OTHERS) // _EACH)
        self._most = min(connections, enough)
        self.burden = Burden(room)
        self.buffer = memoryview(bytearray(_BLOCK))
        self._entrance = entrance if entrance is not None else UnixEntrance()
        self._callers: dict[str, Identity] = {}
        self._connections: dict[Connection, asyncio.Task[None] | None] = {}
        """Each connection, with the task that brings it about; None once it stands."""
        self._users: dict[Hashable, dict[Connection, None]] = {}
        """The connections of each user, oldest first."""
        self._arriving: dict[Connection, socket.socket] = {}
        """The sockets of those that the entrance has not let in yet."""
        self._looked_for_ends = 0.0
        self._waiting: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._dials = _DIALS
        self._to_dial: deque[Connection] = deque()
        self._look_due = False
        self._listening: socket.socket | None = None
        self._behind: list[_Behind] = []
        self._let_go = 0
        self._told_at = -_QUIET_SECONDS

    def hide(
        self,
        directory: Path,
        serve: Callable[[str], object],
        takes: Callable[[str], bool] = lambda authority: True,
        *,
        told: bool = False,
    ) -> None:
        """Have `serve` bind a server's socket, and take its path away. The last server gets whatever no other takes.

        directory: a place where a folder can be made for a moment. serve: binds the path that it is given. takes: tells
        whether requests to an authority are for this server. told: whether it learns the name of a connection from a
        PROXY header in front of it, rather than from the address that its other end is bound to. Raises Misconfigured.
        """
        try:
            self._behind.append(_Behind(directory, serve, takes, told=told))
        except (OSError, RuntimeError) as error:
            raise Misconfigured(
                f"kmsd cannot make a socket of its own in {directory}: {error}",
                "let kmsd's user write there, and see /proc",
            ) from error

    @property
    def chooses(self) -> bool:
        return len(self._behind) > 1

    def listen(self, path: str) -> None:
        """Take callers on a Unix socket at this path, and on an earlier one no more. Raises OSError."""
        self._listen(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)

    def listen_on(self, family: socket.AddressFamily, address: tuple[str, int]) -> tuple[str, int]:
        """Take callers on TCP, and on an earlier socket no more.

        Returns the address, with the port that was chosen for port 0. Raises OSError.
        """
        fresh = socket.socket(family, socket.SOCK_STREAM)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listen(fresh, address)
        host, port, *_ = fresh.getsockname()
        return host, port

    def _listen(self, fresh: socket.socket, address: str | tuple[str, int]) -> None:
        try:
            fresh.setblocking(False)
            fresh.bind(address)
            fresh.listen(_BACKLOG)
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

    def say_goodbye(self, words: str) -> None:
        """Ask every caller to make no further requests; what is under way goes on. words: the reason that is given."""
        frame = goaway(Reason.NO_ERROR, words)
        for connection in tuple(self._connections):
            connection.say_goodbye(frame)

    async def close(self) -> None:
        """End every connection, after a moment for what is on its way. Called when the servers answer no more."""
        self.deafen()
        if self._connections:
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), _ON_ITS_WAY_SECONDS)
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for those that were aborted to be gone
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for server in self._behind:
            server.close()
        self._behind.clear()

    def caller(self, peer: str) -> Identity:
        """Return who calls. Raises Denied if nobody knows.

        peer: name of the connection's other end, as gRPC tells it.
        """
        found = self._callers.get(peer)
        if found is None:
            raise Denied(
                "nobody knows who calls: this connection was not made through kmsd's socket",
                "connect to the admin socket (kmsctl --target)",
            )
        return found

    @property
    def callers(self) -> Collection[Identity]:
        """The identity behind each connection that has called."""
        return self._callers.values()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            if not self._accept_one(listening):
                return

    def _accept_one(self, listening: socket.socket) -> bool:
        """Take one caller. Returns whether there may be another to take now."""
        loop = asyncio.get_running_loop()
        if len(self._connections) >= self._most and not self._make_room():
            loop.remove_reader(listening)
            loop.call_later(_FULL_SECONDS, self._accept_again, listening)
            return False
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            # No file descriptors are left: whoever waits goes on waiting, and the loop does not spin.
            log.warning("no connection can be taken now", reason=error.strerror)
            loop.remove_reader(listening)
            loop.call_later(_RETRY_SECONDS, self._accept_again, listening)
            return False
        try:
            accepted.setblocking(False)
            user, pid = self._entrance.arrived(accepted)
        except OSError:
            accepted.close()
            return True
        connection = Connection(user, pid, self)
        self._connections[connection] = self._run(self._take(connection, accepted))
        self._users.setdefault(user, {})[connection] = None
        self._arriving[connection] = accepted
        self._sweep_soon()
        return True

    def _forget(self, connection: Connection, user: Hashable) -> asyncio.Task[None] | None:
        """Count a connection no more, for the user whom it counted for. Returns the task that brings it about."""
        if (of_user := self._users.get(user)) is not None:
            of_user.pop(connection, None)
            if not of_user:
                del self._users[user]
        self._arriving.pop(connection, None)
        return self._connections.pop(connection, None)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening is self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _make_room(self) -> bool:
        """Let go of connections whose caller has gone or, if that makes no room, of one of the user who has the most.

        That is the one that has been silent for longest, of the user's connections that have said nothing, or of all
        of them if each has said something. Returns whether there is room: False while the one to let go has only just
        been active.
        """
        if monotonic() - self._looked_for_ends >= _AGAIN_SECONDS:
            self._look_for_ends()
        if len(self._connections) < self._most:
            return True
        most = max(self._users.values(), key=len)
        # Whoever has said nothing was active last when it came.
        goes = next((each for each in most if not each.spoke), None) or min(most, key=lambda each: each.active)
        if monotonic() - goes.active < _GRACE:
            return False
        self._drop(goes)
        self._let_go += 1
        if monotonic() - self._told_at >= _QUIET_SECONDS:
            log.warning(
                "there are too many connections: those that were silent for longest are let go",
                let_go=self._let_go,
                user=str(goes.user),
                most=self._most,
            )
            self._let_go, self._told_at = 0, monotonic()
        return True

    async def _take(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await self._entrance.take(connection, accepted)
        except BaseException as error:
            accepted.close()
            self._forget(connection, connection.user)
            if isinstance(error, OSError):
                return
            raise
        finally:
            self._arriving.pop(connection, None)
        if connection not in self._connections:
            connection.abort()
        else:
            self._connections[connection] = None

    # What its connections tell it (`kmsd.transport.connection.Door`).

    def dial(self, connection: Connection) -> None:
        """Connect a connection to the server; later, if too many were made since the last look."""
        if self._dials > 0:
            self._dials -= 1
            self._run(self._reach(connection))
        else:
            self._to_dial.append(connection)
            self._sweep_soon()

    def waits(self, connection: Connection) -> None:
        """Remember a connection that waits, to look at it again."""
        self._waiting.add(connection)

    def held(self) -> None:
        """Look soon, as nothing is read from a connection for now."""
        self._sweep_soon()

    def eased(self) -> None:
        """Look soon, once, whether connections that wait can go on."""
        if self._waiting and not self._look_due:
            self._look_due = True
            asyncio.get_running_loop().call_soon(self._look_at_waiting)

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._forget(connection, connection.user)
        self._waiting.discard(connection)
        self._callers.pop(connection.peer, None)
        if not self._connections:
            self._emptied.set()

    async def _reach(self, connection: Connection) -> None:
        """Connect a connection to its server, under a name by which the server's handlers find who calls."""
        before = connection.user
        try:
            identity = await self._entrance.identify(connection)
            if connection.user != before and connection in self._connections:
                self._connections[connection] = self._forget(connection, before)
                self._users.setdefault(connection.user, {})[connection] = None
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # what it shows cannot be read, or there are no descriptors
            connection.abort()
            return
        try:
            if connection not in self._connections:
                raise ConnectionAbortedError
            inner.setblocking(False)
            server = self._server_for(connection.authority)
            if server.told:
                inner.connect(server.path)
                connection.peer = proxied.introduce(inner)
            else:
                name = f"kmsd-{secrets.token_hex(16)}"
                inner.bind(f"\0{name}")
                inner.connect(server.path)
                connection.peer = f"unix-abstract:{name}"
            self._callers[connection.peer] = identity
            await carry(lambda: Far(connection), inner)
        except (OSError, IndexError):
            inner.close()  # the caller has gone, or the server takes no more
            connection.abort()

    def _server_for(self, authority: str) -> _Behind:
        return next((server for server in self._behind if server.takes(authority)), self._behind[-1])

    def _run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _look_at_waiting(self) -> None:
        self._look_due = False
        for connection in tuple(self._waiting):
            if not connection.look_again():
                self._waiting.discard(connection)

    def _sweep_soon(self, seconds: float = _AGAIN_SECONDS) -> None:
        loop = asyncio.get_running_loop()
        if self._sweep is not None:
            if self._sweep.when() <= loop.time() + seconds:
                return
            self._sweep.cancel()
        self._sweep = loop.call_later(seconds, self._look)

    @property
    def _rests(self) -> bool:
        """Whether a look may be late: what would need one soon calls for it."""
        half_done = self._waiting or self._arriving or self._to_dial or self._dials < _DIALS
        return not half_done and all(connection.rests for connection in self._connections)

    def _look(self) -> None:
        """Let go of callers that are overdue, and go on with those that have waited and need not any more."""
        self._sweep = None
        self.burden.settle()
        self._look_at_waiting()
        now = monotonic()
        for connection in tuple(self._connections):
            if connection.overdue(now):
                connection.end(Reason.ENHANCE_YOUR_CALM, f"a request was not whole after {WHOLE_SECONDS:.0f} s")
            connection.calm()
        self._look_for_ends()
        rests, self._dials = self._rests, _DIALS
        while self._dials and self._to_dial:
            if (connection := self._to_dial.popleft()) in self._connections:
                self.dial(connection)
        if self._connections:
            self._sweep_soon(_REST_SECONDS if rests else _AGAIN_SECONDS)

    def _look_for_ends(self) -> None:
        """Let go of the callers that have gone while nothing was read from them."""
        self._looked_for_ends = monotonic()
        poll, polled = select.poll(), {}
        for connection in self._connections:
            if (handle := connection.unwatched) != -1:
                polled[handle] = connection
                poll.register(handle, 0)
        for connection, accepted in self._arriving.items():
            if (handle := accepted.fileno()) != -1:
                polled[handle] = connection
                poll.register(handle, select.POLLRDHUP)
        for handle, _ in poll.poll(0)[:_DROPS]:
            self._drop(polled[handle])

    def _drop(self, connection: Connection) -> None:
        """End a connection, and free its place at once."""
        taking = self._forget(connection, connection.user)
        if taking is not None:
            taking.cancel()
        connection.abort()
