"""Keep across restarts, in the state directory, when each key was used, and which were made here and never used."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from kmsd import state
from kmsd.errors import Misconfigured
from kmsd.keys.key import Inventory
from kmsd.keys.labels import role
from kmsd.observe import logs
from kmsd.observe.stats import Stats

log = logs.get_logger("kmsd")

_PAUSE: Final = 60.0
"""Seconds between two times that the uses are written down."""
_MADE_MOST: Final = 1000
"""Keys made here and never used that are known; one more is a key like any other."""


class KeyUses:
    """The uses of keys, beginning with what the last run of kmsd wrote down, if that can be believed, as
    `lifecycle.Uses` wants it.

    A key made here counts as unused only while it has been watched all its life. It is forgotten with its first use,
    with a gap in what is noted, when it is seen with the write label, and when it is not seen any more.

    shared: tells whether tenants are served.
    """

    def __init__(self, directory: Path, stats: Stats, write_label: str, shared: Callable[[], bool]) -> None:
        self._directory = directory
        self._stats = stats
        self._write_label = write_label
        self._shared = shared
        self._recalled = state.recall_uses(directory)
        self._begun = False
        self.since = time.time()
        self._made: set[str] = set()
        stats.load_last_used(self._recalled.last)

    def begin(self) -> None:
        """Go on from where the last run ended in order, now that nobody else keeps this directory."""
        self._begun = True
        # The mark that the file is complete goes before the first use of this run, or a gap would go unseen.
        if self._recalled.since and state.withdraw_uses(self._directory, self._recalled):
            self.since = self._recalled.since
            self._made = set(self._recalled.made)

    def last(self, key_id: str) -> float:
        """Return the Unix seconds of a key's last use, 0 if none is known."""
        return self._stats.key_use(key_id).last_used

    @property
    def shared(self) -> bool:
        """Whether this kmsd serves tenants: a use that it notes does not tell of which cluster then."""
        return self._shared()

    def unused(self, key_id: str) -> bool:
        """Return whether a key was made here, and has neither been used nor had the write label since. Where tenants
        are served no key counts as unused: another key manager may have used it for one of them."""
        return key_id in self._made and not self.shared

    def made(self, key_id: str) -> None:
        """Note that a key was made here just now, not as the write key."""
        if len(self._made) < _MADE_MOST:
            self._made.add(key_id)

    def used(self, key_id: str, op: Literal["encrypt", "decrypt"]) -> None:
        """Count a use of a key."""
        self._made.discard(key_id)
        self._stats.used(key_id, op)

    def seen(self, inventory: Inventory) -> None:
        """Forget the keys made here that are gone, or have the write label, in the keys as they are now."""
        self._made.intersection_update(
            key.key_id for key in inventory.keys if key.token.seals and role(key.label) != self._write_label
        )

    async def keep(self) -> None:
        """Write the uses of keys down, now and then, for ever."""
        told = False
        while True:
            try:
                await asyncio.to_thread(state.remember_uses, self._directory, self._now())
            except (OSError, Misconfigured) as error:
                if not told:
                    log.warning("the uses of keys cannot be kept", reason=state.reason(error))
                told = True
            await asyncio.sleep(_PAUSE)

    def keep_all(self) -> None:
        """Write the uses of keys down for the last time: nothing is used any more."""
        if self._begun:
            with contextlib.suppress(OSError, Misconfigured):
                state.remember_uses(self._directory, replace(self._now(), complete=True))

    def _now(self) -> state.RememberedUses:
        last = {use.key_id: use.last_used for use in self._stats.uses()}
        return state.RememberedUses(self.since, last, made=frozenset(self._made))
