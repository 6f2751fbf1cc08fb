"""One call as the handlers see it, the table of methods, and what surrounds every handler.

Knows no listener and no service: a handler is an async function of (Call, request bytes) to response bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from kmsd.errors import Internal, InvalidRequest, KmsdError
from kmsd.observe import logs

log = logs.get_logger("kmsd.rpc")

M = TypeVar("M", bound=Message)


MAX_UID = 64
"""Characters of a request's uid that a log line shows; kube-apiserver sends a UUID."""


class Call:
    """What travels beside a request.

    timeout: seconds left for the answer. uid, key_id_sha256: set by the handler, for the log line.
    """

    __slots__ = ("api", "key_id_sha256", "method", "timeout", "uid")

    def __init__(self, api: str, method: str, timeout: float) -> None:
        self.api = api
        self.method = method
        self.timeout = timeout
        self.uid = ""
        self.key_id_sha256 = ""


Handler = Callable[[Call, bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class Method:
    """api: short name for logs, for example "v2". name: for example "Encrypt"."""

    api: str
    name: str
    handler: Handler


Table = Mapping[str, Method]
"""Full path, for example "/v2.KeyManagementService/Encrypt", to its method."""


class Observer(Protocol):
    """Is told of every call after it ended. code: canonical status name, "OK" included. seconds: spent in it."""

    def __call__(self, call: Call, code: str, seconds: float) -> None: ...


async def run(method: Method, timeout: float, request: bytes, observe: Observer) -> bytes:
    """Run a handler; whatever it raises leaves as a KmsdError, and the observer hears of it."""
    call = Call(method.api, method.name, timeout)
    began = perf_counter()
    try:
        response = await method.handler(call, request)
    except KmsdError as error:
        observe(call, error.code, perf_counter() - began)
        raise
    except Exception as error:
        # A bug. Its text may hold what must not leave the process; the log gets its type and place.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        log.error("internal error", api=call.api, method=call.method, type=type(error).__name__, at=where)
        observe(call, Internal.code, perf_counter() - began)
        raise Internal(f"kmsd failed inside {method.name} ({type(error).__name__})", "see kmsd's log") from error
    observe(call, "OK", perf_counter() - began)
    return response


def parse(message: type[M], request: bytes) -> M:
    """A request message. Raises InvalidRequest for bytes that are none, non-UTF-8 strings included."""
    try:
        return message.FromString(request)
    except DecodeError as error:
        raise InvalidRequest(
            f"the request is no {message.DESCRIPTOR.full_name} message", "the caller speaks another protocol"
        ) from error
