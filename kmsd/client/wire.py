"""The calls over one gRPC channel, and the one place where a failed one becomes a `ClientError`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

# gRPC core writes to stderr of its own accord (a line for each kmsd that stops); read once, when it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import Message

from kmsd.client import dial
from kmsd.client.channel import Connection
from kmsd.client.errors import (
    ClientError,
    Conflict,
    Denied,
    InvalidRequest,
    NotFound,
    Outdated,
    Overloaded,
    Unhealthy,
    Unreachable,
)
from kmsd.client.places import Place, UnixPlace
from kmsd.metadata import CALLER, HINT, RETRYABLE

Response = TypeVar("Response", bound=Message)
T = TypeVar("T")
U = TypeVar("U")

_LOOK_SECONDS = 1.0
"""Seconds to wait for an answer that tells which API a socket serves, or why there is none."""
_HANDSHAKE_SECONDS = 5.0
"""Seconds to find out why there is no connection by TLS, of those that the call has left."""
_DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
_DOUBTFUL = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, _DEADLINE)
"""Codes of calls that may have failed for the certificate that this side showed."""
_CLOSED = "Channel closed!"
"""gRPC's words for a call on a channel that this side has closed."""

# kmsd marks its own failures with metadata; another server's UNAVAILABLE is told from gRPC core's by these.
_OWN_WORDS = (
    "failed to connect to all addresses",
    "Cancelling all calls",
    "Socket closed",
    "GOAWAY",
    "recvmsg",
    "sendmsg",
    "Connection reset",
    "Broken pipe",
    "Stream removed",
)


class Stream(Generic[T]):
    """The messages of one call, as they come. Iterate it on one thread; `close` it from any: the iteration ends."""

    def __init__(self, messages: Any, translate: Callable[[grpc.RpcError], ClientError]) -> None:
        self._messages = messages
        self._translate = translate
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        try:
            yield from self._messages
        except grpc.RpcError as error:
            if not self._closed:
                raise self._translate(error) from error

    def map(self, convert: Callable[[T], U]) -> Stream[U]:
        """Return the same call with each message converted."""
        return _Mapped(self, convert)

    def close(self) -> None:
        """Cancel the call."""
        self._closed = True
        self._messages.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Mapped(Stream[U]):
    def __init__(self, stream: Stream[Any], convert: Callable[[Any], U]) -> None:
        self._stream = stream
        self._convert = convert

    def __iter__(self) -> Iterator[U]:
        return map(self._convert, self._stream)

    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True)
class Stranger:
    """The API that a socket may serve instead of the one that is wanted. method: one of its methods. own: methods of
    the one that is wanted, of which even an old kmsd has one. message, hint: what to say then; message has room for
    the place."""

    method: str
    own: tuple[str, str]
    message: str
    hint: str


class Wire:
    """A channel for methods at `place`, each bounded by `timeout` seconds unless the call names its own. Raises
    InvalidRequest, Denied if the files that it needs cannot be used."""

    def __init__(self, place: Place, timeout: float, stranger: Stranger) -> None:
        self.place = place
        self.timeout = timeout
        self._stranger = stranger
        self._connection = Connection(place, timeout)

    def close(self) -> None:
        """Close the channel."""
        self._connection.close()

    def call(self, method: str, request: Message, response: type[Response], timeout: float | None = None) -> Response:
        """Call a method that answers one message. `method`: full path, as "/package.Service/Method". Raises
        ClientError."""
        seconds, began = self.timeout if timeout is None else timeout, monotonic()
        stub = self._connection.channel.unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            answer: Response = stub(request, timeout=seconds, wait_for_ready=False, metadata=_caller())
        except grpc.RpcError as error:
            raise self._translate(error, seconds, began) from error
        return answer

    def stream(
        self, method: str, request: Message, response: type[Response], timeout: float | None = None
    ) -> Stream[Response]:
        """Call a method that answers many messages, for as long as it is iterated, or for `timeout` seconds. Failures
        as `call`, from the iterator."""
        stub = self._connection.channel.unary_stream(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        seconds, began = self.timeout if timeout is None else timeout, monotonic()
        messages = stub(request, timeout=timeout, wait_for_ready=False, metadata=_caller())
        return Stream(messages, lambda error: self._translate(error, seconds, began))

    def _translate(self, error: grpc.RpcError, seconds: float, began: float) -> ClientError:
        # What a stub raises is also a grpc.Call; the stubs of grpc's own types do not say so.
        call = cast("grpc.Call", error)
        metadata = dict(call.trailing_metadata() or ())
        code, details = call.code(), call.details() or ""
        if code in _DOUBTFUL:
            self._connection.doubt()
        if not metadata and code in (grpc.StatusCode.UNAVAILABLE, _DEADLINE):
            lost = self._lost(code, details, seconds, began)
            if lost is not None:
                return lost
        if not metadata and code is grpc.StatusCode.CANCELLED and details == _CLOSED:
            return Unreachable(f"the connection to {self.place} was made anew", "", code.name, retryable=True)
        if code is grpc.StatusCode.UNIMPLEMENTED and self._serves_another():
            return InvalidRequest(self._stranger.message.format(self.place), self._stranger.hint, code.name)
        hint = metadata.get(HINT, b"")
        text = hint.decode(errors="replace") if isinstance(hint, bytes) else hint
        retryable = metadata.get(RETRYABLE) in ("true", b"true")
        return _answered(code, details, text, retryable=retryable)

    def _lost(self, code: grpc.StatusCode, details: str, seconds: float, began: float) -> ClientError | None:
        """Return why gRPC itself says that there is no answer; None if it was a server that said so."""
        late = code is _DEADLINE and details == "Deadline Exceeded"
        if isinstance(self.place, UnixPlace):
            why = None if late else dial.explain(self.place.path)
        else:
            from kmsd.client import handshake

            left = max(min(_LOOK_SECONDS, seconds), seconds + began - monotonic())
            why = handshake.explain(self.place, min(left, _HANDSHAKE_SECONDS))
        if why is not None:
            return why
        if late:
            hint = f"allow it more time, or {dial.LOG}"
            words = f"kmsd on {self.place} gave no answer within {seconds:g} s"
            return Unreachable(words, hint, code.name, retryable=True)
        return dial.broken(self.place) if any(words in details for words in _OWN_WORDS) else None

    def _serves_another(self) -> bool:
        return self._answers(self._stranger.method) and not any(map(self._answers, self._stranger.own))

    def _answers(self, method: str) -> bool:
        """Return whether the server has a method, whatever it answers to an empty request."""
        call = cast("Callable[..., bytes]", self._connection.channel.unary_unary(method))
        try:
            call(b"", timeout=_LOOK_SECONDS, metadata=_caller())
        except grpc.RpcError as error:
            code = cast("grpc.Call", error).code()
            return code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, _DEADLINE)
        return True


@functools.cache
def _caller() -> tuple[tuple[str, bytes], ...]:
    # sudo says on whose behalf root acts; as true as anything a program says of itself.
    behalf = os.environ.get("SUDO_USER", "")
    text = Path(sys.argv[0]).name + (f"({behalf})" if behalf else "")
    return ((CALLER, text.encode(errors="replace")[:200]),)


def _answered(code: grpc.StatusCode, details: str, hint: str, *, retryable: bool) -> ClientError:
    # The KMS APIs put the hint into the sentence too: kube-apiserver logs nothing else.
    message = details.removesuffix(f"; {hint}") or f"kmsd answered {code.name}"
    kind: type[ClientError]
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            kind = InvalidRequest
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            kind = Denied
        case grpc.StatusCode.NOT_FOUND:
            kind = NotFound
        case grpc.StatusCode.ALREADY_EXISTS:
            kind = Conflict
        case grpc.StatusCode.FAILED_PRECONDITION:
            kind = Unhealthy if retryable else Conflict
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            kind, retryable = Unhealthy, True
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            kind = Overloaded
        case grpc.StatusCode.UNIMPLEMENTED:
            kind = Outdated
            message = "this kmsd does not know the call"
            hint = "it is older than this program, or its socket serves another API: `kmsctl version` shows both"
        case _:
            kind = ClientError
            hint = hint or dial.LOG
    return kind(message, hint, code.name, retryable=retryable)


class Client:
    """The base of the clients: one `Wire`, closed at the end of a with block. `timeout`: seconds per call."""

    STRANGER: ClassVar[Stranger]

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self._wire = Wire(place, timeout, self.STRANGER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._wire.close()
