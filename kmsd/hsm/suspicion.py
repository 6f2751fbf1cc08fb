"""Decide when a host is to be replaced unasked: a call does not come back, or the token seems to be lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, Protocol

from kmsd.errors import KmsdError
from kmsd.hsm.address import TokenAddress
from kmsd.hsm.changeover import Changeover
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession
from kmsd.hsm.login import Connected
from kmsd.hsm.operation import definition_of

_WATCH_SECONDS: Final = 0.25
_PAUSE_FIRST: Final = 1.0
_PAUSE_MOST: Final = 30.0
"""Seconds between two times that a host is replaced because a call hangs, or its login seems to be lost, from the first
up to the last."""
_CALM_SECONDS: Final = 60.0
"""Seconds without such a replacement after which the pauses begin anew."""
_BELIEVED_AFTER: Final = 10.0
"""Seconds from a login until an operation that fails is believed although random numbers work."""
_PROVEN_AFTER: Final = 2.0
"""Seconds from a login until an operation that fails is believed where the token says that nobody is logged in."""
_LOGIN_GONE: Final = frozenset(
    {
        "CKR_USER_NOT_LOGGED_IN",
        "CKR_DEVICE_ERROR",
        "CKR_DEVICE_REMOVED",
        "CKR_SESSION_CLOSED",
        "CKR_SLOT_ID_INVALID",
        "CKR_TOKEN_NOT_PRESENT",
    }
)
"""The answers to an operation when the login, the token, or its slot is gone; random numbers, which need no login and
no new session, prove nothing then."""


class Hosts(Protocol):
    """The replacer of hosts."""

    async def replace_stuck(self, connected: Connected) -> None:
        """Replace a host from which a call has not come back for long."""

    async def replace_lost(self, connected: Connected, what: str) -> None:
        """Replace a host whose token seems to be lost."""


class Suspicion:
    """The judge of when a host is to be replaced. changeover: the host that serves. hosts: told to replace it. spawn:
    lets something run in the background."""

    def __init__(
        self,
        address: TokenAddress,
        changeover: Changeover,
        hosts: Hosts,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        tell: Callable[[str], None],
    ) -> None:
        self._address = address
        self._changeover = changeover
        self._hosts = hosts
        self._spawn = spawn
        self._tell = tell
        self._probing = False
        self._lost_pause, self._lost_at = 0.0, -1e9
        self._crowded_at: Connected | None = None
        """The connection of which it was told that there is no place for another key."""

    async def watch(self) -> None:
        """Have hosts replaced in which a call does not come back, and sessions closed that are not needed; for ever."""
        pause, last = 0.0, -1e9
        while True:
            await asyncio.sleep(min(_WATCH_SECONDS, self._address.stuck_after / 4))
            connected = self._changeover.connected
            self._changeover.dispatch.sizing.rest()
            if connected is None or not self._changeover.dispatch.stuck(connected.host):
                continue
            if monotonic() - last > _CALM_SECONDS:
                pause = 0.0
            await asyncio.sleep(pause * jitter())
            if self._changeover.connected is connected and self._changeover.dispatch.stuck(connected.host):
                pause, last = min(max(_PAUSE_FIRST, pause * 2), _PAUSE_MOST), monotonic()
                await self._hosts.replace_stuck(connected)

    def suspect(self, error: CkrError) -> None:
        """Look into an operation that failed, in a new session, too. A wrong GCM tag looks the same on some tokens."""
        connected = self._changeover.connected
        if not self._probing and connected is not None:
            self._probing = True
            self._spawn(self._probe(error, connected))

    async def _probe(self, cause: CkrError, connected: Connected) -> None:
        try:
            what = cause.name
            if cause.name not in _LOGIN_GONE or monotonic() - connected.since < _patience(cause):
                try:
                    if await self._works_after_all(cause, connected):
                        return
                except CkrError:
                    pass
                except KmsdError:
                    what = f"{cause.name}, then no answer"
            if self._changeover.connected is connected and self._is_time(connected):
                await self._hosts.replace_lost(connected, what)
        finally:
            self._probing = False

    def _is_time(self, connected: Connected) -> bool:
        """Return whether a login has lasted long enough to be replaced; each that did not help makes that longer."""
        now = monotonic()
        if now - self._lost_at > _CALM_SECONDS:
            self._lost_pause = 0.0
        if now - connected.since < self._lost_pause * jitter():
            return False
        self._lost_pause, self._lost_at = min(max(_PAUSE_FIRST, self._lost_pause * 2), _PAUSE_MOST), now
        return True

    async def _works_after_all(self, cause: CkrError, connected: Connected) -> bool:
        """Return whether the token is there. Raises CkrError, KmsdError if it is not."""
        # C_GenerateRandom tests the device alone: it needs neither a key nor a login.
        await self._changeover.dispatch.queue.submit(
            definition_of(TokenSession.random), (8,), self._address.timeout, retry=False
        )
        if await self._only_crowded(connected):
            return True
        await self._changeover.care.examine(connected)
        # Where that proves nothing a failed operation is believed, but not again and again: one key may be of no use
        # while the others are.
        return (
            self._changeover.care.ailment is not None
            or (connected.quirks.random_is_proof and cause.name not in _LOGIN_GONE)
            or monotonic() - connected.since < _patience(cause)
        )

    async def _only_crowded(self, connected: Connected) -> bool:
        """Return whether there was no place for a key, and those that have theirs work: then nothing is lost."""
        room = self._changeover.room
        first = next((cka_id for cka_id, kind in room.inside if kind == "aes"), None) if room and room.crowded else None
        if room is None or first is None:
            return False
        trial = definition_of(TokenSession.encrypt_cbc), (first, bytes(16), bytes(16))
        try:
            await self._changeover.dispatch.queue.submit(*trial, self._address.timeout, retry=False)
        except (CkrError, KeyMissingError, KeyAmbiguousError):
            return False
        if self._crowded_at is not connected:
            self._crowded_at = connected
            self._tell(room.error(self._changeover.name).sentence())
        return True


def _patience(cause: CkrError) -> float:
    return _PROVEN_AFTER if cause.function == "C_GetSessionInfo" else _BELIEVED_AFTER


def jitter() -> float:
    """Return a factor that keeps several kmsd from doing the same at the same moment."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - nothing secret is made of it
