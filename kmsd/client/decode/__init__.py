"""Decode the messages of the admin API into the dataclasses of `kmsd.client.model`, module by module. Pure.

Each of its modules is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.client.lazy import modules_of

if TYPE_CHECKING:
    from kmsd.client.decode import (
        audit,
        ca,
        config,
        enrol,
        inspection,
        jwt,
        keys,
        plain,
        rotation,
        scan,
        stats,
        status,
        tokens,
    )

__all__ = [
    "audit",
    "ca",
    "config",
    "enrol",
    "inspection",
    "jwt",
    "keys",
    "plain",
    "rotation",
    "scan",
    "stats",
    "status",
    "tokens",
]

if not TYPE_CHECKING:
    __getattr__ = modules_of(__name__, __all__)
