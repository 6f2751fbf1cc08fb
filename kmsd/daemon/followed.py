"""Keep across restarts, in the state directory, how far kube-apiserver has followed to the write key, so that the times
that are told stay what they were."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd import state
from kmsd.errors import Misconfigured
from kmsd.observe import logs
from kmsd.service.following import Following

log = logs.get_logger("kmsd")

_LOOK: Final = 1.0
"""Seconds between two looks at whether something happened for the first time, which is written down at once."""
_PAUSE: Final = 60.0
"""Seconds between two times that the last Status and Encrypt are written down."""


class Followed:
    """The keeper of the times at which kube-apiserver followed. following: what the service writes its times into."""

    def __init__(self, directory: Path) -> None:
        self.following = Following()
        self._directory = directory
        self._begun = False

    def begin(self) -> None:
        """Go on from what the last run wrote down, if that can be believed, now that nobody else keeps this
        directory."""
        self._begun = True
        for name, value in state.recall_following(self._directory).items():
            setattr(self.following, name, value)

    async def keep(self) -> None:
        """Write down, for ever, how far kube-apiserver has followed whenever that changes."""
        kept, written = replace(self.following), monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            now = replace(self.following)
            if now != kept and (_firsts(now) != _firsts(kept) or monotonic() - written >= _PAUSE):
                kept, written = now, monotonic()
                try:
                    await asyncio.to_thread(state.remember_following, self._directory, asdict(now))
                except (OSError, Misconfigured) as error:
                    # That the state directory cannot be written is told with the uses of keys.
                    log.debug("how far kube-apiserver has followed cannot be kept", reason=state.reason(error))

    def keep_last(self) -> None:
        """Write down for the last time how far kube-apiserver has followed: nothing is answered any more."""
        if self._begun and self.following.key_id:
            with contextlib.suppress(OSError, Misconfigured):
                state.remember_following(self._directory, asdict(self.following))


def _firsts(following: Following) -> Following:
    return replace(following, last_status=0.0, last_encrypt=0.0)
