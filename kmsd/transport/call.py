"""One call as the handlers see it, the table of methods, and what surrounds every handler.

Knows no listener and no service: a handler is an async function of (Call, request bytes) to response bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from time import perf_counter
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from kmsd.errors import Internal, InvalidRequest, KmsdError, TooLarge, Unavailable
from kmsd.metadata import MAX_MESSAGE
from kmsd.observe import logs
from kmsd.share import Share, share
from kmsd.transport.caller import Identity

log = logs.get_logger("kmsd.transport")

M = TypeVar("M", bound=Message)


MAX_UID = 64
"""Characters of a request's uid that a log line shows; kube-apiserver sends a UUID."""


class Call:
    """The data that travels beside a request.

    api, method: `api` and `name` of its `Method`.
    until: when the answer has to be given at the latest; deadline: when its caller stops waiting, which may be later.
    Both by the monotonic clock; inf if there is no such time.
    caller, caller_pid: who calls, in words, and its process, where handlers are told so: on the admin API, and on a TCP
    port. The kernel vouches for uid, user and process (`relay`), and a certificate for what is told of a caller from
    another machine, whose process is 0. The name of the program is the program's own word.
    identity: who calls, where handlers are told so; else None.
    check: whether kmsctl calls, or a proxy on its own account, by their own word: no kube-apiserver is behind it.
    tenant: name of the tenant that calls, or that an admin's call is about; empty for none.
    uid, key_id_sha256, detail: set by the handler, for the log and the audit.
    stopping: set before the call is cancelled because kmsd ends, and when it has failed by itself and must not be.
    """

    __slots__ = (
        *("api", "caller", "caller_pid", "check", "deadline", "detail", "identity", "key_id_sha256"),
        *("method", "stopping", "tenant", "uid", "until"),
    )

    def __init__(self, api: str, method: str, until: float = inf, deadline: float = inf) -> None:
        self.api = api
        self.method = method
        self.until = until
        self.deadline = deadline
        self.uid = ""
        self.key_id_sha256 = ""
        self.caller = ""
        self.caller_pid = 0
        self.identity: Identity | None = None
        self.check = False
        self.tenant = ""
        self.detail = ""
        self.stopping = False


Handler = Callable[[Call, bytes], Awaitable[bytes]]


StreamHandler = Callable[[Call, bytes], AsyncIterator[bytes]]


_SLACK: Final = 64 * 1024
"""Bytes by which a message may exceed what its method takes, so that the method can say what is too large."""


class Role(IntEnum):
    """The part that a caller from another machine must have to call a method.

    A VIEWER may call what asks for KNOWN, an OPERATOR also what asks for VIEWER; a TENANT is no admin.
    """

    KNOWN = 0
    """A tenant, or an admin of any role."""
    TENANT = 1
    VIEWER = 2
    OPERATOR = 3


@dataclass(frozen=True)
class Method:
    """A method that gives one answer.

    api: short name for logs, for example "v2". name: for example "Encrypt". share: its part of the token. largest:
    bytes of a request that it takes. counted: whether its calls are part of what is observed. role: who may call it
    from another machine. hinted: whether its callers read what to do from its own place beside an error's message;
    else it is part of the message. seconds: that a call may take at the most; None: as its listener says.
    """

    api: str
    name: str
    handler: Handler
    share: Share = Share.ADMIN
    largest: int = MAX_MESSAGE - _SLACK
    counted: bool = True
    role: Role = Role.TENANT
    hinted: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class StreamMethod:
    """A method that answers with many messages, until its caller has enough. Its fields are as those of `Method`."""

    api: str
    name: str
    handler: StreamHandler
    largest: int = MAX_MESSAGE - _SLACK
    role: Role = Role.TENANT
    hinted: bool = False


def check_size(method: Method | StreamMethod, size: int) -> None:
    """Raise TooLarge if `size`, the bytes of a message, is far larger than what the method takes."""
    most = method.largest + _SLACK
    if size > most:
        raise TooLarge(
            f"the message has {size} bytes", f"{method.api} {method.name} takes at most {most} in one message"
        )


Table = Mapping[str, Method | StreamMethod]
"""Methods by their full paths, for example "/v2.KeyManagementService/Encrypt"."""


class Observer(Protocol):
    """An observer, which is told of every call, but for streams and for methods that are not counted."""

    def began(self) -> None:
        """Note that a call begins."""

    def ended(self, call: Call, code: str, seconds: float, reason: str = "") -> None:
        """Note that a call has ended.

        code: canonical status name, "OK" included. seconds: spent in the call. reason: the sentence that the caller
        got, as `KmsdError.reason`; empty for a call that succeeded.
        """


async def run(
    method: Method, call: Call, request: bytes, observe: Observer, admit: Callable[[], None] | None = None
) -> bytes:
    """Run a handler; whatever it raises leaves as a KmsdError, and the observer hears of it.

    admit: called before the handler; raises a KmsdError for a call that is refused.
    """
    observe.began()
    share.set(method.share)
    began = perf_counter()
    try:
        if admit is not None:
            admit()
        response = await method.handler(call, request)
    except KmsdError as error:
        observe.ended(call, error.code, perf_counter() - began, error.reason)
        raise
    except asyncio.CancelledError:
        if call.stopping:
            stopped = stopping()
            observe.ended(call, stopped.code, perf_counter() - began, stopped.reason)
            raise stopped from None
        observe.ended(call, "CANCELLED", perf_counter() - began, "the caller went away before the answer was there")
        raise
    except Exception as error:
        bug = _bug(call, error)
        observe.ended(call, bug.code, perf_counter() - began, bug.reason)
        raise bug from error
    observe.ended(call, "OK", perf_counter() - began)
    return response


def stopping() -> Unavailable:
    """Return the error of a call whose answer is not there before kmsd ends."""
    return Unavailable("kmsd is stopping", "try again when it is back")


async def run_stream(method: StreamMethod, call: Call, request: bytes) -> AsyncGenerator[bytes, None]:
    """Run a handler that streams; whatever it raises leaves as a KmsdError."""
    try:
        async for response in method.handler(call, request):
            yield response
    except KmsdError:
        raise
    except Exception as error:
        raise _bug(call, error) from error


def _bug(call: Call, error: Exception) -> Internal:
    """Log the type and the place of an unexpected error, and return the error that the caller gets in its stead.

    The text of the unexpected error goes into neither: it may hold what must not leave the process.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    log.error("internal error", api=call.api, method=call.method, type=type(error).__name__, at=where)
    return Internal(f"kmsd failed inside {call.method} ({type(error).__name__})", "see kmsd's log")


def parse(message: type[M], request: bytes) -> M:
    """Parse a request message. Raises InvalidRequest for bytes that are none, strings that are not UTF-8 included."""
    try:
        return message.FromString(request)
    except DecodeError as error:
        raise InvalidRequest(
            f"the request is no {message.DESCRIPTOR.full_name} message", "the caller speaks another protocol"
        ) from error
