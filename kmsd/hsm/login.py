"""Starting a host process and logging it in to the token: what has to go well before it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Final, TypeVar

from kmsd.hsm import wire
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.ckr import PIN_ERRORS, CkrError
from kmsd.hsm.explain import explain
from kmsd.hsm.host.opening import FoundToken, LoggedIn, OpenToken
from kmsd.hsm.operation import Definition, definition_of
from kmsd.hsm.pin_guard import PinGuard, locked, refused
from kmsd.hsm.process import HostProcess, ask
from kmsd.hsm.queue import Job
from kmsd.hsm.vendors import tpm2
from kmsd.observe.printed import Printed

T = TypeVar("T")

_STEP_SECONDS: Final = 15.0
"""Time limit of a host for loading the module and finding the token, and again for logging in."""
_END_SECONDS: Final = 1.0
"""Time limit of a host that is of no use for finalising the module."""


@dataclass(frozen=True, kw_only=True)
class Connected(FoundToken, LoggedIn):
    """A token that is in use: what was found, and what the login gave. pin: the PIN of the login, empty without
    one. since: by the monotonic clock; since_unix: the same moment, in seconds of Unix time."""

    host: HostProcess
    pin: str = field(repr=False)
    since: float
    since_unix: float
    keys_most: int | None = None
    """Distinct keys that this login may use; None: no bound."""


async def log_in(
    address: TokenAddress,
    read_pin: Callable[[], str | None],
    guard: PinGuard,
    gone: Callable[[HostProcess], None],
    claim: Callable[[FoundToken], Awaitable[None]],
    printed: Printed,
) -> Connected:
    """Return a new host that is logged in; what was begun in vain is ended. Raises KmsdError.

    claim: asked before the PIN is tried; raises KmsdError if this token is not to be used.
    printed: told of what the module prints.
    """
    host = await HostProcess.start(answer_each, gone, printed)
    try:
        return await _steps(host, address, read_pin, guard, claim)
    except BaseException as error:
        # A module that does not answer does not finalise either.
        ending = host.kill() if host.inflight else host.end(_END_SECONDS)
        await asyncio.shield(asyncio.ensure_future(ending))
        if isinstance(error, CkrError):
            raise explain(error, str(address)) from error
        raise


async def look(done: Definition, args: tuple[Any, ...], seconds: float, printed: Printed) -> Any:
    """Have an operation done by a host of its own that does not log in. Raises CkrError, KmsdError."""
    host = await HostProcess.start(answer_each, lambda _: None, printed)
    try:
        return await ask(host, _job(done, args), seconds)
    finally:
        await asyncio.shield(asyncio.ensure_future(host.kill() if host.inflight else host.end(_END_SECONDS)))


async def ask_directly(host: HostProcess, fn: Callable[[OpenToken], T], seconds: float) -> T:
    """Have an operation done by this host and no other, which may have been replaced meanwhile. Raises KmsdError."""
    job = _job(definition_of(fn), ())
    job.until = monotonic() + seconds
    result: T = await ask(host, job, seconds)
    return result


async def _steps(
    host: HostProcess,
    address: TokenAddress,
    read_pin: Callable[[], str | None],
    guard: PinGuard,
    claim: Callable[[FoundToken], Awaitable[None]],
) -> Connected:
    found: FoundToken = await ask(host, _job(definition_of(OpenToken.find), (address,)), _STEP_SECONDS)
    await claim(found)
    name, pin = f"token {found.token.label!r}", None
    if "LOGIN_REQUIRED" in found.token.flags:
        pin = await asyncio.to_thread(read_pin)
        await asyncio.to_thread(guard.check, found.token, pin)
    try:
        login: LoggedIn = await ask(host, _job(definition_of(OpenToken.log_in), (pin,)), _STEP_SECONDS)
    except CkrError as error:
        if error.name == "CKR_PIN_LOCKED":
            # Nothing was said about the PIN: after a reload it is tried again.
            raise locked(name) from error
        if error.name in PIN_ERRORS and pin is not None:
            await asyncio.to_thread(guard.was_refused, pin)
            raise refused(name, error.name) from error
        raise
    if pin is not None:
        await asyncio.to_thread(guard.was_accepted, pin)
    return Connected(
        **vars(found),
        **vars(login),
        host=host,
        pin=pin or "",
        since=monotonic(),
        since_unix=time(),
        keys_most=None if tpm2.managed() else found.quirks.keys_per_login,
    )


def _job(done: Definition, args: tuple[Any, ...]) -> Job:
    job = Job(done, args, asyncio.get_running_loop().create_future(), monotonic() + _STEP_SECONDS)
    job.sent, job.retry = monotonic(), False
    return job


def answer_each(answers: Sequence[tuple[Job, wire.Reply]]) -> None:
    """End the calls of a host that does not serve yet, or never will."""
    for job, reply in answers:
        wire.deliver(reply, job.done.result, job.future)
