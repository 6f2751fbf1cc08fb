"""A probe of a token that is serving meanwhile, or a look at one that is away: what `kmsctl doctor` asks for.

The checks run beside the workers, on a thread and sessions of their own, so that calls go on being answered; a module
that only one thread may be inside of gets them a few at a time, between the calls. A token that is away is looked at
without a login. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from kmsd.errors import DeadlineExceeded, KmsdError
from kmsd.hsm import checks, quirks
from kmsd.hsm.address import choose_slot
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Connected, Hsm
from kmsd.hsm.findings import Elsewhere, Findings, Plan, Report
from kmsd.hsm.module import Module, SlotView
from kmsd.hsm.opening import module_path
from kmsd.hsm.probe import report, stages
from kmsd.hsm.trials import Place

_GRACE: Final = 1.0
"""Seconds that the check which is under way at the end of the time may take to come back."""
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class _Stopped:
    """Why the checks did not come to their end, and what to do."""

    why: str
    fix: str


async def diagnose(hsm: Hsm, aes_id: bytes | None, hmac_id: bytes | None, seconds: float) -> Report:
    """What the token can do, or why it is away. Never raises because of the token: what fails is a finding.

    aes_id, hmac_id: see `Plan`. seconds: for all checks; what is not done by then is left out, and that is a finding.
    """
    connected = hsm.connected
    if connected is None:
        return await _away(hsm, min(seconds, _LOOK_SECONDS))
    many = connected.module.multithreaded
    plan = Plan(
        connected.quirks,
        aes_id=aes_id,
        hmac_id=hmac_id,
        sessions=hsm.address.sessions if many else 1,
        # One more holds the login.
        opened=hsm.pool_view().open + 1,
        elsewhere=await _elsewhere(hsm) if many else None,
        slow=True,
    )
    found = Findings()
    began = monotonic()
    run = _beside if many else _between
    stopped = await run(connected, _checks(found, hsm, connected, plan), seconds)
    if stopped is not None:
        # A check may still be under way, and go on writing.
        found = Findings(list(found.checks), list(found.timings), dict(found.able))
        seen = f"not all were made in {monotonic() - began:.0f} s: {stopped.why}"
        found.note("complete", "All checks", "failed", seen, stopped.fix)
    return report(found, connected.module.path, connected.token.label, plan.quirks, whole=stopped is None)


async def _elsewhere(hsm: Hsm) -> Elsewhere | None:
    try:
        return await asyncio.wait_for(hsm.elsewhere(), _LOOK_SECONDS)
    except TimeoutError:
        return None


def _checks(found: Findings, hsm: Hsm, connected: Connected, plan: Plan) -> Iterator[None]:
    """Of the slot as it is now: what the token says of its PIN changes."""
    try:
        slots = connected.module.slots()
    except CkrError:
        slots = []  # the first check meets it again, and says so
    gone = SlotView(connected.slot_id, "", "", None, connected.module.path, None)
    slot = next((each for each in slots if each.slot_id == connected.slot_id), gone)
    if slot.token is not None and slot.token.pin_warnings:
        # Nothing logs in that does not have to while tries are being counted.
        plan = replace(plan, elsewhere=None)
    yield from stages(found, connected.module, slot, plan)
    if hsm.connected is connected:
        checks.room(found, connected.quirks, hsm.room)


async def _beside(connected: Connected, work: Iterator[None], seconds: float) -> _Stopped | None:
    """On a thread of their own."""
    until = monotonic() + seconds

    def run(ending: Callable[[], bool]) -> _Stopped | None:
        for _ in work:
            if ending():
                return _GIVEN_UP
            if monotonic() > until:
                return _SLOW
        return None

    try:
        running = connected.pool.beside(run)
    except KmsdError:
        return _GIVEN_UP
    done, _ = await asyncio.wait({running}, timeout=seconds + _GRACE)
    return running.result() if done else _HANGS


async def _between(connected: Connected, work: Iterator[None], seconds: float) -> _Stopped | None:
    """On the worker, a few checks at a time."""
    until = monotonic() + seconds
    while monotonic() < until:
        try:
            more = await connected.pool.submit(
                lambda _: next(work, _OVER) is None, timeout=until + _GRACE - monotonic(), retry=False
            )
        except KmsdError as error:
            return _HANGS if isinstance(error, DeadlineExceeded) else _GIVEN_UP
        if not more:
            return None
    return _SLOW


_OVER: Final = object()
_GIVEN_UP: Final = _Stopped(
    "the connection to the token was given up meanwhile", "see kmsctl status for why, then look again"
)
_SLOW: Final = _Stopped("the token is slow", "give it longer: kmsctl doctor --timeout 60s")
_HANGS: Final = _Stopped("the token does not answer", "check the token and the network to it")


async def _away(hsm: Hsm, seconds: float) -> Report:
    """Of a token that is down: what can be seen without a login, and why it is down."""
    found = Findings()
    try:
        row, path, label = await hsm.look(lambda module: _survey(found, module, hsm), seconds)
    except KmsdError as error:
        found = Findings()
        path, label = _path(hsm), hsm.address.label
        row = quirks.choose(hsm.address.provider, path)
        found.note("module", "PKCS#11 module", "failed", error.message, error.hint)
    found.note("connection", "Connection", "failed", hsm.error.message, hsm.error.hint)
    return report(found, path, label, row, whole=False)


def _survey(found: Findings, module: Module, hsm: Hsm) -> tuple[quirks.Quirks, str, str]:
    """The row, the module's path and the token's label. Raises CkrError."""
    address = hsm.address
    checks.module(found, module)
    slots = module.slots()
    checks.slots(found, slots)
    try:
        slot = choose_slot(slots, address, module.path)
    except KmsdError as error:
        if error.message != hsm.error.message:  # that is told below
            found.note("token", "Token", "failed", error.message, error.hint)
        return quirks.choose(address.provider, module.path), module.path, address.label
    view = slot.token
    if view is None:  # choose_slot takes no empty one
        raise CkrError("CKR_TOKEN_NOT_PRESENT", "C_GetTokenInfo")
    checks.token(found, Place(module.cryptoki.table, slot.slot_id), view)
    if "LOGIN_REQUIRED" in view.flags:
        seen = "a PIN that was refused is not tried again" if hsm.refused else "not logged in"
        found.note("login", "Login", "failed", seen, hsm.error.hint)
    checks.pin(found, view)
    return quirks.choose(address.provider, module.path, view.manufacturer), module.path, view.label


def _path(hsm: Hsm) -> str:
    try:
        return module_path(hsm.address.provider, hsm.address.module)
    except KmsdError:
        return hsm.address.module
