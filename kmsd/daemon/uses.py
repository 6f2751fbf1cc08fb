"""When each key was used, kept across restarts in the state directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from kmsd import state
from kmsd.errors import Misconfigured
from kmsd.lifecycle import Uses
from kmsd.observe import logs
from kmsd.observe.stats import Stats

log = logs.get_logger("kmsd")

_PAUSE: Final = 60.0
"""Seconds between two times that the uses are written down."""


class KeyUses:
    """Begins with what the last run of kmsd wrote down, if that can be believed. idle: as in `kmsd.lifecycle.Uses`."""

    def __init__(self, directory: Path, stats: Stats, idle: float) -> None:
        self._directory = directory
        self._stats = stats
        recalled = state.recall_uses(directory)
        self._since = recalled.since or time.time()
        stats.load_last_used(recalled.last)
        self.known = Uses(last=lambda key_id: stats.key_use(key_id).last_used, since=self._since, idle=idle)

    async def keep(self) -> None:
        """Write them down, now and then, for ever."""
        told = False
        while True:
            # At once, too: what was written at the end of the last run is complete no more.
            try:
                await asyncio.to_thread(state.remember_uses, self._directory, self._now())
            except (OSError, Misconfigured) as error:
                if not told:
                    log.warning("the uses of keys cannot be kept", reason=state.reason(error))
                told = True
            await asyncio.sleep(_PAUSE)

    def keep_all(self) -> None:
        """Write them down for the last time: nothing is used any more."""
        with contextlib.suppress(OSError, Misconfigured):
            state.remember_uses(self._directory, replace(self._now(), complete=True))

    def _now(self) -> state.Uses:
        return state.Uses(self._since, {use.key_id: use.last_used for use in self._stats.uses()})
