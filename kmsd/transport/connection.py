"""One connection of a caller, and the one to the server behind it: each frame passes when its turn has come.

A caller that does not read what it is sent is not listened to; one that sends no whole requests, or headers without
end, is let go. Knows frames (`kmsd.transport.frames`) and what requests weigh (`kmsd.transport.burden`), and no API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from enum import IntFlag
from time import monotonic
from typing import Any, Final, Protocol, cast

from kmsd.transport import frames
from kmsd.transport.burden import STREAMS, Burden, Carried
from kmsd.transport.first_request import FirstRequest
from kmsd.transport.frames import Boundaries, Reason

WHOLE_SECONDS: Final = 5.0
"""Seconds in which a request must be whole once it has begun, and a caller that has connected must say something."""
STALL_SECONDS: Final = 60.0
"""Seconds in which a caller must read some of what waits for it."""
IDLE_SECONDS: Final = 1800.0
"""Seconds in which a caller must make its first request. Servers give one that has as much time for the next."""
LAST_SECONDS: Final = 1.0
"""Seconds for the last bytes of a connection whose other side has ended."""
_MOST_HEADERS: Final = 64 * 1024
"""Bytes of one block of headers, as it travels, at the most. Both servers decode fewer."""
_TURN: Final = 64
"""Frames of one connection that pass before others have their turn."""
_SIGNALS: Final = 200
"""Frames besides those of requests that a connection may send between two calls of `calm`."""
_SIGNALS_EACH: Final = 8
"""Frames besides those of requests that a connection may send in addition for each of its requests."""


class _Hold(IntFlag):
    """The reasons for which nothing more is read from a caller now."""

    DIALLING = 1
    SERVER_FULL = 2
    UNREAD = 4
    SHARE = 8
    TURN = 16
    CALM = 32


class Door(Protocol):
    """The part of one socket that its connections have in common.

    buffer: holds what was read last; one serves all, for nobody reads while another does.
    """

    @property
    def burden(self) -> Burden: ...

    @property
    def buffer(self) -> memoryview: ...

    @property
    def chooses(self) -> bool:
        """Whether the authority of a connection's first request has to be known before it is dialled."""

    def dial(self, connection: Connection) -> None:
        """Connect a `Far` of this connection to the server, as its caller has said something."""

    def waits(self, connection: Connection) -> None:
        """Note that this connection waits, having its share, until `Connection.look_again` has it go on."""

    def held(self) -> None:
        """Note that nothing is read from a connection for now, until `calm`, its end, or the server's side."""

    def eased(self) -> None:
        """Note that there may be room now for a connection that waits."""

    def gone(self, connection: Connection) -> None:
        """Note that this connection has ended."""


class Connection(asyncio.BufferedProtocol):
    """The caller's side of a connection.

    user: whom the connection counts for. pid: the process of the caller, 0 if it is on another machine. peer: name of
    the end that the server sees, empty until there is one. authority: the one that the first request names, if the door
    asks for it. carried: the requests that are under way. spoke: whether the caller has said anything. active:
    monotonic time at which the caller last did, or connected. waits: whether it has its share, and waits for room.
    """

    def __init__(self, user: Hashable, pid: int, door: Door) -> None:
        self.user = user
        self.pid = pid
        self.peer = ""
        self.authority = ""
        self.carried = Carried(user)
        self.spoke = False
        self.active = monotonic()
        self.waits = False
        self._door = door
        self._burden = door.burden
        self._near: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._back = Boundaries()
        self._goodbye = b""
        self._hold = _Hold(0)
        self._unread_since = 0.0
        self._rest = b""
        self._skip = len(frames.PREFACE)
        self._highest = 0
        self._block = 0
        self._no_message = False
        self._signals = _SIGNALS
        self._told = False
        self._first = FirstRequest() if door.chooses else None
        self._settings_unacknowledged = False

    def counts_for(self, user: Hashable) -> None:
        """Have the connection count for another user from now on. Nothing must have passed yet."""
        self.user = user
        self.carried = Carried(user)

    def told_of(self, name: str) -> Any:
        """Return what the transport tells of the caller's side, as asyncio's `get_extra_info` does."""
        return self._near.get_extra_info(name) if self._near is not None else None

    # The caller's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the caller, which has connected."""
        # uvloop's transports are of no such class, and do the same.
        self._near = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the door's buffer, into which asyncio reads."""
        return self._door.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, once the server is there; before that, look how the caller begins, and dial."""
        self.active = monotonic()
        self._rest += self._door.buffer[:nbytes]
        if self._far is not None:
            self._pass()
        elif not self.spoke:
            if not frames.PREFACE.startswith(self._rest[: len(frames.PREFACE)]):
                self.abort()
                return
            self.spoke = True
            if self._first is None:
                self._dial()
            else:
                self._begin()
        elif self._first is not None:
            self._look_for_authority(self._first)

    def _dial(self) -> None:
        self._first = None
        self._wait(_Hold.DIALLING)
        self._door.dial(self)

    def _begin(self) -> None:
        """Send the first frame that a server sends, in its place: most clients ask for nothing before they have it."""
        if self._near is not None and self._first is not None:
            self._near.write(frames.settings(STREAMS))
            self._told = self._settings_unacknowledged = True
            self._look_for_authority(self._first)

    def _look_for_authority(self, first: FirstRequest) -> None:
        authority = first.authority(self._rest)
        if authority is not None:
            self.authority = authority
            self._dial()

    def eof_received(self) -> bool:
        """Pass on that the caller sends nothing more. Returns whether the last answers are awaited."""
        if self._far is None or self._far.is_closing():
            return False
        if not self._rest:
            self._far.write_eof()
        self._loop.call_later(LAST_SECONDS, self.abort)
        # By TLS neither side can send when the other has ended; who asks for that all the same is warned in the log.
        return self.told_of("ssl_object") is None

    def pause_writing(self) -> None:
        """Pause the reading of both sides: the caller does not read what it is sent."""
        self._unread_since = monotonic()
        self._wait(_Hold.UNREAD)
        if self._far is not None:
            self._far.pause_reading()

    def resume_writing(self) -> None:
        """Go on with both sides: the caller reads again."""
        if self._far is not None and not self._far.is_closing():
            self._far.resume_reading()
        self._go_on(_Hold.UNREAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the server's side, and what the requests weigh: the caller's side has ended."""
        self._burden.leave(self.carried)
        if self._far is not None:
            self._far.abort()
        self._door.eased()
        self._door.gone(self)

    # What passes.

    def _pass(self) -> None:
        """Send the server what may pass, and keep the rest.

        A frame whose header is there may pass before the rest of it has come.
        """
        data, place = self._rest, self._skip
        size = len(data)
        far, turn = self._far, 0
        if far is None or far.is_closing():
            return
        while size - place >= frames.HEADER:
            frame = frames.frame_at(data, place)
            if self._settings_unacknowledged and frame.kind == frames.SETTINGS and frame.flags & frames.ACK:
                # It answers the frame that was sent in place of the server, and the server knows nothing of that.
                self._settings_unacknowledged = False
                data = data[:place] + data[place + frames.HEADER :]
                size -= frames.HEADER
                continue
            if turn >= _TURN:
                self._wait(_Hold.TURN)
                self._loop.call_soon(self._next_turn)
                break
            if not self._may_pass(frame):
                break
            turn += 1
            place += frames.HEADER + frame.length
        passes = min(place, size)
        self._skip, self._rest = place - passes, data[passes:]
        if passes:
            far.write(data[:passes])

    def _may_pass(self, frame: frames.Frame) -> bool:
        """Return whether this frame may pass now. One that may is counted as passed."""
        length, kind, flags, stream = frame
        if self._is_signal(frame):
            if self._signals <= 0:
                self._wait(_Hold.CALM)
                return False
            self._signals -= 1
        if kind == frames.DATA:
            if not flags & frames.END_STREAM and self._burden.must_wait(self.carried):
                return self._share_is_used_up()
            self._burden.add(self.carried, stream, length)
            if flags & frames.END_STREAM:
                self.carried.unfinished.pop(stream, None)
        elif kind == frames.HEADERS:
            if stream > self._highest:
                if self._burden.must_wait(self.carried):
                    return self._share_is_used_up()
                self._highest = stream
                self._signals += _SIGNALS_EACH
                self._burden.begin(self.carried, stream)
            self._block, self._no_message = 0, bool(flags & frames.END_STREAM)
        elif kind == frames.RST_STREAM:
            self._burden.end(self.carried, stream, lingers=True)
        if kind in (frames.HEADERS, frames.CONTINUATION):
            self._block += frames.HEADER + length
            if self._block > _MOST_HEADERS:
                self.end(Reason.ENHANCE_YOUR_CALM, f"headers of more than {_MOST_HEADERS} bytes")
                return False
            if self._no_message and flags & frames.END_HEADERS:
                self.carried.unfinished.pop(stream, None)
        return True

    def _is_signal(self, frame: frames.Frame) -> bool:
        """Return whether this frame is no part of a request."""
        match frame.kind:
            case frames.DATA:
                return not frame.length and not frame.flags & frames.END_STREAM
            case frames.RST_STREAM:
                return frame.stream not in self.carried.weights
            case frames.HEADERS:
                return frame.stream <= self._highest
        return True

    def _share_is_used_up(self) -> bool:
        self.waits = True
        self._wait(_Hold.SHARE)
        self._door.waits(self)
        return False

    def calm(self) -> None:
        """Let the caller send _SIGNALS frames again that are no part of a request. Called from time to time."""
        self._signals = max(self._signals, _SIGNALS)
        if self._hold & _Hold.CALM:
            self._go_on(_Hold.CALM)

    def look_again(self) -> bool:
        """Go on if there is room again. Returns whether the connection still waits."""
        if not self._burden.must_wait(self.carried):
            self.waits = False
            self._go_on(_Hold.SHARE)
        return self.waits

    def _next_turn(self) -> None:
        self._go_on(_Hold.TURN)

    def _wait(self, why: _Hold) -> None:
        if not self._hold and self._near is not None and not self._near.is_closing():
            self._near.pause_reading()
        if why is not _Hold.TURN:
            self._door.held()
        self._hold |= why

    def _go_on(self, why: _Hold) -> None:
        self._hold &= ~why
        if not self._hold:
            self._pass()
        if not self._hold and self._near is not None and not self._near.is_closing():
            self._near.resume_reading()

    # The server's side.

    def reached(self, far: asyncio.Transport) -> None:
        """Keep the transport of the server, which has been reached, and pass what has waited for it."""
        if self._near is None or self._near.is_closing():
            far.abort()
            return
        self._far = far
        self._go_on(_Hold.DIALLING)

    def server_full(self, full: bool) -> None:
        """Wait while the server is full, and go on when it is not. full: whether it takes nothing more now."""
        if full:
            self._wait(_Hold.SERVER_FULL)
        else:
            self._go_on(_Hold.SERVER_FULL)

    def answer(self, data: bytes) -> None:
        """Send the caller what the server has said, and count the requests that are answered by it."""
        near = self._near
        if near is None or near.is_closing():
            return
        ended: set[int] = set()
        place = self._back.follow(data, ended)
        for stream in ended:
            self._burden.end(self.carried, stream)
        if ended:
            self._door.eased()
        if self._goodbye and place >= 0 and self._told:
            near.writelines((data[:place], self._goodbye, data[place:]))
            self._goodbye = b""
        else:
            near.write(data)
        self._told = True

    def server_gone(self) -> None:
        """End the caller's side, after what is on its way: the server has ended its own."""
        if self._near is not None and not self._near.is_closing():
            self._near.close()
            self._loop.call_later(LAST_SECONDS, self.abort)

    # The end of the connection.

    def say_goodbye(self, frame: bytes) -> None:
        """Send the caller a frame of kmsd's own, as soon as there is a place for it between the server's frames."""
        if self._near is None or self._near.is_closing() or not self._told:
            return
        if self._back.whole:
            self._near.write(frame)
        else:
            self._goodbye = frame

    def end(self, reason: Reason, words: str) -> None:
        """Tell the caller why the connection ends, if it listens, and end it."""
        self.say_goodbye(frames.goaway(reason, words))
        if self._far is not None:
            self._far.abort()
        self.server_gone()

    def abort(self) -> None:
        """End the connection now."""
        if self._near is not None:
            self._near.abort()

    @property
    def unwatched(self) -> int:
        """The descriptor of the caller's side while nothing is read from it, and its end goes unnoticed; else -1."""
        near = self._near
        return (
            near.get_extra_info("socket").fileno() if near is not None and self._hold and not near.is_closing() else -1
        )

    @property
    def rests(self) -> bool:
        """Whether no request is half here, and nothing keeps the connection from being read."""
        return self.spoke and self._first is None and not self._hold and not self.carried.unfinished

    def overdue(self, now: float) -> bool:
        """Return whether the caller has said nothing, or left a request unfinished, or an answer unread, for too long.

        now: monotonic time.
        """
        if not self.spoke:
            return now - self.active > WHOLE_SECONDS
        if self._first is not None:
            return now - self.active > IDLE_SECONDS or now - self._first.began > WHOLE_SECONDS
        if self._hold & _Hold.UNREAD and now - self._unread_since > STALL_SECONDS:
            return True
        began = next(iter(self.carried.unfinished.values()), now)
        # A connection that is kept waiting has twice the time.
        return now - began > WHOLE_SECONDS * (2 if self.waits else 1)


class Far(asyncio.Protocol):
    """The server's side of a connection, which tells its `Connection` of all that happens."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell that the server is there."""
        self._connection.reached(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Hand over what the server has said."""
        self._connection.answer(data)

    def pause_writing(self) -> None:
        """Tell that the server takes nothing more now."""
        self._connection.server_full(True)

    def resume_writing(self) -> None:
        """Tell that the server takes more again."""
        self._connection.server_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the server has ended the connection."""
        self._connection.server_gone()
