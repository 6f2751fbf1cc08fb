"""Health that is earned: a background round trip with the write key, remembered with its time.

Knows only a function that makes the round trip, and errors; whoever asks gets an answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from time import monotonic

from kmsd.errors import DeadlineExceeded, Internal, KmsdError, Unavailable, WrongPlaintext, WrongResult
from kmsd.share import Share, share


@dataclass(frozen=True)
class HealthView:
    """The health at one moment. ok: the last round trip worked and is recent. error: why not.

    last_success: Unix time in seconds, 0 if there was none. round_trip: seconds. age: seconds since a check ended; inf
    before the first.
    """

    ok: bool
    error: KmsdError | None
    last_success: float
    round_trip: float
    age: float


class Health:
    """The keeper of the last round trip. check: makes one, raises KmsdError. interval: seconds between checks.

    on_change: called with the new view when health came or went, or its reason changed. on_wrong: called when a round
    trip shows that the token gives wrong results, the first time after one that was right.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[None]],
        *,
        interval: float,
        timeout: float,
        on_change: Callable[[HealthView], None],
        on_wrong: Callable[[WrongResult], None],
    ) -> None:
        self._check = check
        self.interval = interval
        self._timeout = timeout
        self._on_change = on_change
        self._on_wrong = on_wrong
        self._error: KmsdError | None = Unavailable(
            "kmsd is starting: the write key has not been tried yet", "try again in a moment"
        )
        self._last_success = 0.0
        self._round_trip = 0.0
        self._checked = -inf
        self._running: asyncio.Task[None] | None = None
        self._again = False
        self._told: tuple[str, str] | None = None
        self._wrong: WrongResult | None = None

    def check_results(self) -> None:
        """Raise WrongResult if a round trip has shown that the token gives wrong results, and none since has shown
        that it gives right ones."""
        if self._wrong is not None:
            raise self._wrong.again()

    def check_plaintexts(self) -> None:
        """Raise WrongPlaintext if the last round trip that was not broken off has shown that the token decrypts
        wrongly."""
        if isinstance(self._wrong, WrongPlaintext):
            raise self._wrong.again()

    def view(self) -> HealthView:
        """Return the health as it is known now."""
        age = monotonic() - self._checked
        error = self._error
        if error is None and age > 3 * self.interval + self._timeout:
            error = Unavailable(
                f"the last round trip with the token is {age:.0f} s old",
                "the token hangs, or kmsd is starved of CPU",
            )
        return HealthView(error is None, error, self._last_success, self._round_trip, age)

    async def run(self) -> None:
        """Check for ever, every `interval` seconds."""
        while True:
            await self.check()
            await asyncio.sleep(self.interval)

    def poke(self) -> None:
        """Check soon, without waiting for it: something has changed."""
        if self._running is not None:
            self._again = True
            return
        self._start()

    async def check(self, wait: float | None = None) -> HealthView:
        """Check now; callers at the same time share one round trip. wait: seconds to wait for it at the most."""
        if self._running is None:
            self._start()
        running = self._running
        if running is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await asyncio.shield(running)
        return self.view()

    async def fresh(self, older_than: float, wait: float) -> HealthView:
        """Return the view; while not ok, after a new check unless the last one is younger than `older_than` seconds."""
        view = self.view()
        if view.ok or view.age < older_than:
            return view
        return await self.check(wait)

    def _start(self) -> None:
        context = contextvars.copy_context()
        context.run(share.set, Share.HEALTH)
        self._running = asyncio.create_task(self._once(), name="health-check", context=context)

    async def _once(self) -> None:
        began = monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                await self._check()
        except TimeoutError:
            self._error = DeadlineExceeded("the token does not answer", "check the token and the network to it")
        except WrongResult as error:
            self._error = error.again()
            before, self._wrong = self._wrong, error.again()
            if before is None:
                self._on_wrong(self._wrong)
        except KmsdError as error:
            self._error = error.again()
        except Exception as error:  # noqa: BLE001  whatever it is, the key has not been shown to work
            self._error = Internal(f"the round trip failed with an unexpected {type(error).__name__}")
        else:
            self._error = self._wrong = None
            self._last_success = time.time()
            self._round_trip = monotonic() - began
        finally:
            self._checked = monotonic()
            self._running = None
        view = self.view()
        told = view.error.kind if view.error else ("OK", "")
        if told != self._told:
            self._told = told
            self._on_change(view)
        if self._again:
            self._again = False
            self._start()
