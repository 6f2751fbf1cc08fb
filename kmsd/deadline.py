"""The one deadline of a call: taken when it arrives, and spent by every wait below it.

`until` is a moment of the monotonic clock, in seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from kmsd.errors import DeadlineExceeded


def after(seconds: float) -> float:
    """Return the moment that is so many seconds from now."""
    return monotonic() + seconds


def left(until: float) -> float:
    """Return the seconds that are left, more than none. Raises DeadlineExceeded if none are."""
    seconds = until - monotonic()
    if seconds <= 0:
        raise _passed()
    return seconds


@asynccontextmanager
async def within(until: float) -> AsyncIterator[None]:
    """End what goes on inside when the time is up. Raises DeadlineExceeded then."""
    # Not for the processes of tokens, which have no loop: it would take a third of their memory.
    import asyncio

    try:
        async with asyncio.timeout(left(until)) as limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise _passed() from None
        raise


def _passed() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the token did not answer in the time that the caller gave",
        "check the token and the network to it; the call may be repeated",
    )
