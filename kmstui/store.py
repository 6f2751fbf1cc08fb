"""What is known of kmsd, and the one worker that finds it out.

Widgets are shown a `View` and never ask themselves. Knows no widget: whoever makes a Store says what to call with
each new View. Everything here runs on the event loop, except `_ask`, which runs in a thread, for the client blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from kmsd.client import ClientError, Key, Slot, Status, connect, default_target

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

CALL_TIMEOUT = 5.0
"""Seconds for one call; short, because a screen that waits shows old data."""
RETRY_MOST = 5.0
"""Seconds between attempts while kmsd does not answer, at the most."""
INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between reads that the keys offer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """One moment on two clocks: the wall's, for what kmsd dates; the steady one (seconds), for our own reads."""

    wall: datetime
    steady: float

    @classmethod
    def now(cls) -> Moment:
        return cls(datetime.now(UTC), monotonic())


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The last answer to one question.

    value: None until there was one. taken: when, on the steady clock. error: why the latest attempt failed;
    the value is then an old one.
    """

    value: T | None = None
    taken: float = 0.0
    error: ClientError | None = None

    def failed(self, error: ClientError) -> Reading[T]:
        return replace(self, error=error)


@dataclass(frozen=True)
class View:
    """Everything a screen shows.

    interval: seconds between reads. due: when the next one begins, on the steady clock; None while one is
    under way, or paused.
    """

    target: str
    interval: float
    paused: bool = False
    due: float | None = None
    status: Reading[Status] = field(default_factory=Reading)
    keys: Reading[tuple[Key, ...]] = field(default_factory=Reading)
    slots: Reading[tuple[Slot, ...]] = field(default_factory=Reading)

    @property
    def lost(self) -> bool:
        """Whether kmsd did not answer the latest question."""
        return self.status.error is not None


class Store:
    """target: as `kmsd.client.connect`; None: the default, looked for again at each attempt.
    interval: seconds between reads. tell: called with each new View."""

    def __init__(self, target: str | None, interval: float, tell: Callable[[View], None]) -> None:
        self._target = target
        self._tell = tell
        self._client: AdminClient | None = None
        self._closed = False
        self._wake = asyncio.Event()
        self._asked = False
        self._slots_wanted = False
        self._read_at = 0.0
        self.view = View(target or default_target(), interval)

    async def run(self) -> None:
        """Read for ever."""
        try:
            while True:
                self._publish(replace(self.view, due=None))
                answer = await asyncio.to_thread(self._ask, self.view, slots=self._slots_wanted)
                self._read_at = monotonic()
                # What was pressed while the thread asked is newer than what the thread was given.
                answer = replace(answer, interval=self.view.interval, paused=self.view.paused)
                self._publish(answer)
                await self._rest()
        finally:
            # Ends a call that still runs, so that leaving never waits for a kmsd that hangs.
            self._closed = True
            self._drop()

    def refresh(self) -> None:
        """Read at once, even while paused."""
        self._asked = True
        self._wake.set()

    def toggle_pause(self) -> None:
        self._publish(replace(self.view, paused=not self.view.paused))
        self._wake.set()

    def slower(self) -> None:
        longer = [each for each in INTERVALS if each > self.view.interval]
        self._set_interval(longer[0] if longer else self.view.interval)

    def faster(self) -> None:
        shorter = [each for each in INTERVALS if each < self.view.interval]
        self._set_interval(shorter[-1] if shorter else self.view.interval)

    def want_slots(self, wanted: bool) -> None:
        """Slots are asked for only while they are looked at: on some modules that goes to every reader."""
        if wanted and not self._slots_wanted:
            self.refresh()
        self._slots_wanted = wanted

    def _set_interval(self, seconds: float) -> None:
        self._publish(replace(self.view, interval=seconds))
        self._wake.set()

    def _publish(self, view: View) -> None:
        self.view = view
        self._tell(view)

    async def _rest(self) -> None:
        """Until the next read is due or asked for."""
        while not self._asked:
            self._wake.clear()
            pause = min(self.view.interval, RETRY_MOST) if self.view.lost else self.view.interval
            due = None if self.view.paused else self._read_at + pause
            self._publish(replace(self.view, due=due))
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                break
        self._asked = False

    def _ask(self, view: View, *, slots: bool) -> View:
        """In a thread: the view with new answers, or with why there are none."""
        target = self._target or default_target()
        view = replace(view, target=target)
        try:
            client = self._connected(target)
            status = client.get_status()
        except ClientError as error:
            # A new channel next time: an old one waits out its own backoff after kmsd is back.
            self._drop()
            return replace(view, status=view.status.failed(error))
        view = replace(view, status=Reading(status, monotonic()), keys=_read(view.keys, client.list_keys))
        unasked = replace(view.slots, error=None)
        return replace(view, slots=_read(view.slots, client.list_slots) if slots else unasked)

    def _connected(self, target: str) -> AdminClient:
        if self._client is None:
            self._client = connect(target, timeout=CALL_TIMEOUT)
            if self._closed:
                self._client.close()
        return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _read(last: Reading[T], ask: Callable[[], T]) -> Reading[T]:
    try:
        return Reading(ask(), monotonic())
    except ClientError as error:
        return last.failed(error)
