"""The share on whose behalf a token is asked for something, so that none starves another. It travels with the call."""

from __future__ import annotations

from contextvars import ContextVar
from enum import IntEnum
from typing import Final


class Share(IntEnum):
    """The shares of a token; whose turn it is is decided between these, by their weights (`kmsd.hsm.queue`)."""

    HEALTH = 0
    ADMIN = 1
    V2 = 2
    V1BETA1 = 3
    JWT = 4


share: Final = ContextVar("share", default=Share.ADMIN)
"""Share of the task that is running."""
