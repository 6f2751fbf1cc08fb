"""Handle a call for a server: from a path and bytes to an answer or one refusal. Knows no server.

Both servers ask here, so that a caller cannot tell them apart: who calls, how long an answer may take, how large a
message may be, what is refused when kmsd ends, and how an error is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol

from kmsd.errors import KmsdError, TooOften
from kmsd.metadata import HINT, PROXY, RETRYABLE
from kmsd.transport.call import Call, Method, Observer, Role, StreamMethod, Table, check_size, run, run_stream, stopping
from kmsd.transport.caller import Identity
from kmsd.transport.relay import Relay

_LAST_WORDS: Final = 0.1
"""Seconds that a stream has to tell its last when kmsd stops."""
_PUT_OFF_SECONDS: Final = 0.1
"""Seconds that a caller waits for the refusal of a call that is one too many."""
_MOST_PUT_OFF: Final = 1024
"""Such refusals that wait at once; further ones are given at once."""
_CUT_SECONDS: Final = 1.0
"""Seconds in which calls that are cut because kmsd stops can say so to their callers."""


@dataclass(frozen=True)
class Refusal:
    """The words in which an error is told. code: name of the canonical status code. trailers: metadata besides."""

    code: str
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def refusal(method: Method | StreamMethod, error: KmsdError) -> Refusal:
    """Return what the caller of this method gets for this error."""
    return Refusal(
        error.code,
        # kube-apiserver logs nothing but this text.
        error.message if method.hinted else error.sentence(),
        ((HINT, error.hint.encode()), (RETRYABLE, str(error.retryable).lower())),
    )


class _Nobody:
    """An observer of the calls that are not counted: it does nothing."""

    def began(self) -> None: ...

    def ended(self, call: Call, code: str, seconds: float, reason: str = "") -> None: ...


class Admission(Protocol):
    """The judge of who may call what, and how often."""

    def admit(self, call: Call, role: Role, identity: Identity) -> None:
        """Let a call in, and write down whose it is. role: what its method asks for. Raises Denied, Overloaded."""

    def leave(self, call: Call) -> None:
        """Note that a call has ended, whether it was let in or not."""


class Dispatch:
    """The methods of one socket, and the calls that are under way.

    timeout: seconds for a call whose method and caller name none. relay: proves who calls; None: handlers are not told
    who calls. admission: asked about every call; None: everybody who gets here may call everything.
    """

    def __init__(
        self,
        tables: Iterable[Table],
        timeout: float,
        observe: Observer,
        relay: Relay | None,
        admission: Admission | None = None,
    ) -> None:
        self.methods = {path: method for table in tables for path, method in table.items()}
        self._timeout = timeout
        self._observe = observe
        self._relay = relay
        self._admission = admission
        self._ending = asyncio.Event()
        self._put_off_now = 0
        self._calls: dict[asyncio.Task[Any] | None, Call | None] = {}
        """The calls by the tasks that answer them; None in place of a stream, which ends by itself when kmsd does."""

    async def unary(self, method: Method, request: bytes, left: float | None, peer: str, claim: str) -> bytes:
        """Answer one call. Raises KmsdError.

        left: seconds that its caller waits, None if it does not say. peer: name of the connection's other end. claim:
        the name that the program gives itself.
        """
        now = monotonic()
        most = self._timeout if method.seconds is None else method.seconds
        deadline = now + (most if left is None else left)
        call = Call(method.api, method.name, min(deadline, now + most), deadline)
        if self._ending.is_set():
            raise stopping()
        check_size(method, len(request))
        task = asyncio.current_task()
        self._calls[task] = call
        # kube-apiserver says no name of its own.
        call.check = claim not in ("", PROXY)
        admit = None if self._relay is None else partial(self._admit, call, method, peer, claim)
        try:
            return await run(method, call, request, self._observe if method.counted else _Nobody(), admit)
        except KmsdError as error:
            call.stopping = True  # so that `stop` does not cut it
            if isinstance(error, TooOften):
                await self._put_off(call.deadline)
            raise
        finally:
            self._calls.pop(task, None)
            if self._admission is not None:
                self._admission.leave(call)

    async def _put_off(self, deadline: float) -> None:
        """Let a caller who calls too often wait for its refusal: at once, it would call again at once, and to refuse
        costs about as much as to answer. deadline: monotonic time."""
        if self._put_off_now < _MOST_PUT_OFF:
            self._put_off_now += 1
            try:
                await asyncio.sleep(min(_PUT_OFF_SECONDS, max(0.0, (deadline - monotonic()) / 2)))
            finally:
                self._put_off_now -= 1

    async def stream(self, method: StreamMethod, request: bytes, peer: str, claim: str) -> AsyncIterator[bytes]:
        """Answer one call with many messages, until kmsd ends at the latest. Raises KmsdError.

        peer, claim: as of `unary`.
        """
        call = Call(method.api, method.name)
        check_size(method, len(request))
        task = asyncio.current_task()
        self._calls[task] = None
        try:
            self._admit(call, method, peer, claim)
            async with contextlib.aclosing(_until(self._ending, run_stream(method, call, request))) as responses:
                async for response in responses:
                    yield response
        finally:
            self._calls.pop(task, None)
            if self._admission is not None:
                self._admission.leave(call)

    async def stop(self, grace: float) -> None:
        """End the streams, refuse new calls, and give those that have begun `grace` seconds to end by themselves.

        After that they end with an error that says why.
        """
        self._ending.set()
        await self._idle(grace)
        for task, call in tuple(self._calls.items()):
            if task is not None and call is not None and not call.stopping:
                call.stopping = True
                task.cancel()
        await self._idle(_CUT_SECONDS)

    async def _idle(self, seconds: float) -> None:
        """Wait until the calls that are under way have ended, for `seconds` at the most."""
        tasks = [task for task in self._calls if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _admit(self, call: Call, method: Method | StreamMethod, peer: str, claim: str) -> None:
        """Write down who calls, and ask the admission. Does nothing if handlers are not told who calls.

        Raises Denied if nobody vouches for the caller, or it may not call, and Overloaded if it calls too often.
        """
        if self._relay is None:
            return
        identity = self._relay.caller(peer)
        call.caller = identity.told(claim)
        call.caller_pid = identity.pid
        call.identity = identity
        if self._admission is not None:
            self._admission.admit(call, method.role, identity)


async def _until(ending: asyncio.Event, responses: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the responses, and raise Unavailable when kmsd ends: nobody who watches keeps it from ending."""
    end = asyncio.ensure_future(ending.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(responses, None))
            try:
                await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    # Time to tell that nothing is served any more.
                    await asyncio.wait({following}, timeout=_LAST_WORDS)
            finally:
                # A generator that still runs cannot be closed.
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if following.cancelled():
                raise stopping()
            response = following.result()
            if response is None:
                return
            yield response
    finally:
        end.cancel()
        await responses.aclose()
