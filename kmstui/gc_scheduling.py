"""Garbage is collected while nobody types: to look through everything on the screens takes a tenth of a second."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import monotonic

PAUSE = 1.0
"""Seconds between two collections: what has gathered by then takes some ten milliseconds."""
QUIET, PATIENCE = 0.15, 1.0
"""Seconds without a key before one; and how much longer it waits for that."""
LONG_QUIET, LONG = 60.0, 600.0
"""The same before everything is looked through, and seconds between two times of that."""


async def collect(quiet: Callable[[], float]) -> None:
    """Collect garbage for ever. quiet: seconds since the last key.

    What is still there after a collection is looked at again only when everything is: most of it stays as long as its
    screen does, or goes by itself when it is replaced.
    """
    gc.disable()
    gc.freeze()
    try:
        done = looked = monotonic()
        while True:
            await asyncio.sleep(max(0.01, PAUSE - (monotonic() - done), QUIET - quiet()))
            now = monotonic()
            if quiet() < QUIET and now < done + PAUSE + PATIENCE:
                continue
            if quiet() > LONG_QUIET and now > looked + LONG:
                gc.unfreeze()
                looked = now
            gc.collect()
            gc.freeze()
            done = monotonic()
    finally:
        gc.unfreeze()
        gc.enable()
