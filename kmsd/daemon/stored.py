"""Keep the store open: tried again while it is away, and what is wrong with it told in Status. Loads SQLAlchemy."""

from __future__ import annotations

import asyncio
from typing import Final

from kmsd.config.pins import read_password
from kmsd.config.settings import Settings
from kmsd.errors import KmsdError, Unavailable
from kmsd.observe import logs
from kmsd.store.store import Store

log = logs.get_logger("kmsd.store")

_AGAIN: Final = 2.0
"""Seconds between two tries to open a store that is away."""
_LOOK: Final = 15.0
"""Seconds between two looks at one that is open."""


class StoreKeeper:
    """The store, as soon as it can be opened. problem: why it cannot be used; None if it can."""

    def __init__(self, settings: Settings) -> None:
        self.problem: KmsdError | None = Unavailable("the store is not open yet", "kmsd has just begun; try again")
        self._settings = settings
        self._store: Store | None = None

    def store(self) -> Store:
        """Return the store. Raises KmsdError if it was never opened; each of its methods does if it is away now."""
        if self._store is None:
            problem = self.problem or Unavailable("the store is not open", "try again")
            raise problem.again()
        return self._store

    async def look(self) -> None:
        """Open the store if it is not, or see whether it still answers."""
        try:
            if self._store is None:
                self._store = await asyncio.to_thread(self._opened)
                log.info("store is open", store=self._store.name)
            else:
                await asyncio.to_thread(self._store.touch)
        except KmsdError as error:
            if self.problem is None or self.problem.kind != error.kind:
                log.error(error.message, hint=error.hint)
            self.problem = error.again()
        else:
            if self.problem is not None:
                log.info("store can be used")
            self.problem = None

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_AGAIN if self.problem is not None else _LOOK)

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store:
        settings = self._settings.store
        return Store(settings.url, self._settings.state.dir, read_password(settings.password_file))
