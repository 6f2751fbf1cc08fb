"""The messages between kmsd and a host process, and their framing. Plain values, checked on both sides; never code.

A frame is four bytes of length, big-endian, and a MessagePack list of messages, so that many go in one write.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from kmsd.errors import Internal, KmsdError
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError

if TYPE_CHECKING:
    import asyncio

_LENGTH: Final = struct.Struct(">I")
FRAME_MOST: Final = 64 * 1024 * 1024
"""Bytes of the longest frame: a list of 100,000 keys is shorter."""


class Request(msgspec.Struct, array_like=True):
    """A request to a host. id: from 1 on. operation: its name. arguments: a list. repeat: whether the host may try once
    more, in a new session, what failed in a way that a new session may mend. until: by the monotonic clock, which all
    processes of a machine share; nobody waits for the answer any longer."""

    id: int
    operation: str
    arguments: msgspec.Raw
    repeat: bool
    until: float


class Failure(msgspec.Struct, array_like=True):
    """An exception. kind "ckr": name and text are those of `CkrError`; "error": name of a `KmsdError`, with its message
    and hint; "internal": name of an unexpected exception. lost: it failed in a new session, too, in a way that may mean
    that the token is away."""

    kind: Literal["ckr", "missing", "ambiguous", "error", "internal"]
    name: str = ""
    text: str = ""
    hint: str = ""
    lost: bool = False


class Reply(msgspec.Struct, array_like=True):
    """An answer of a host. id: of the request. value: what the operation returned, nil if it failed. seconds: that it
    took on the token. used: keys that were asked for since the login, when there are more than the last reply told."""

    id: int
    value: msgspec.Raw
    seconds: float
    failure: Failure | None = None
    used: tuple[tuple[bytes, str], ...] | None = None


NIL: Final = msgspec.Raw(b"\xc0")
_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final = msgspec.msgpack.Decoder(list[Request])
_replies: Final = msgspec.msgpack.Decoder(list[Reply])


def pack(value: object) -> msgspec.Raw:
    """Encode one value, to be put into a message."""
    return msgspec.Raw(_encoder.encode(value))


def frame(messages: Sequence[Request] | Sequence[Reply]) -> bytes:
    """Encode messages into one frame."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """A cutter of a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Return the bodies of the frames that are whole now. Raises ValueError for one that is too long."""
        buffer = self._buffer
        buffer += data
        whole: list[bytes] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, at)
            if size > FRAME_MOST:
                raise ValueError(f"a frame of {size} bytes, at most {FRAME_MOST} are taken")
            if len(buffer) - at < _LENGTH.size + size:
                break
            at += _LENGTH.size
            whole.append(bytes(buffer[at : at + size]))
            at += size
        del buffer[:at]
        return whole


def requests(body: bytes) -> list[Request]:
    """Decode a frame that kmsd sent. Raises msgspec.MsgspecError."""
    return _requests.decode(body)


def replies(body: bytes) -> list[Reply]:
    """Decode a frame that a host sent. Raises msgspec.MsgspecError."""
    return _replies.decode(body)


def failure(error: BaseException, *, lost: bool = False) -> Failure:
    """Put an exception into words that travel. Of an unexpected one only the type does so: its text may be secret."""
    match error:
        case CkrError():
            return Failure("ckr", error.name, error.function, lost=lost)
        case KeyMissingError():
            return Failure("missing")
        case KeyAmbiguousError():
            return Failure("ambiguous")
        case KmsdError():
            return Failure("error", type(error).__name__, error.message, error.hint)
        case _:
            return Failure("internal", type(error).__name__)


def exception(told: Failure) -> Exception:
    """Make the exception that was told."""
    match told.kind:
        case "ckr":
            return CkrError(told.name, told.text)
        case "missing":
            return KeyMissingError()
        case "ambiguous":
            return KeyAmbiguousError()
        case "error":
            kind = _kinds().get(told.name, Internal)
            error = kind.__new__(kind)
            KmsdError.__init__(error, told.text, told.hint)
            return error
        case "internal":
            return Internal(f"unexpected {told.name}")


def deliver(reply: Reply, decoder: msgspec.msgpack.Decoder[Any], future: asyncio.Future[Any]) -> Exception | None:
    """End the future with what was answered, unless it has ended. Returns the error, if it is one."""
    error: Exception | None = None
    value: Any = None
    if reply.failure is not None:
        error = exception(reply.failure)
    else:
        try:
            value = decoder.decode(reply.value)
        except msgspec.MsgspecError:
            error = Internal("the process of the PKCS#11 module answers what is no answer", "see kmsd's log")
    if not future.done():
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    return error


def _kinds() -> dict[str, type[KmsdError]]:
    kinds: dict[str, type[KmsdError]] = {}
    waiting: list[type[KmsdError]] = [KmsdError]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting.extend(kind.__subclasses__())
    return kinds
