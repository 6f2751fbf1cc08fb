"""What is measured, in one table: the loads of each group of servers that take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Load = tuple[str, str, int]
"""API, method, requests in flight."""

_IN_FLIGHT: Final = (1, 16, 64)
KEYS: Final = (2, 500, 5000)
SCHEMES: Final = {"gcm": "aes-gcm", "pair": "aes-cbc"}
LATENCIES: Final = (0.002, 0.01)
"""Seconds that the token takes for each C_Encrypt and C_Decrypt beside its own."""


@dataclass(frozen=True)
class Plan:
    """rounds: of each case. seconds: of each burst. transports: that are measured where one would do.

    side_by_side to latency: the loads of each group.
    """

    rounds: int
    seconds: float
    transports: tuple[str, ...]
    side_by_side: tuple[Load, ...]
    keys: tuple[Load, ...]
    schemes: tuple[Load, ...]
    latency: tuple[Load, ...]


def _loads(api: str, methods: tuple[str, ...], in_flight: tuple[int, ...]) -> tuple[Load, ...]:
    return tuple((api, method, each) for method in methods for each in in_flight)


_BOTH: Final = ("Encrypt", "Decrypt")
DEFAULT: Final = Plan(
    rounds=5,
    seconds=0.4,
    transports=("h2corn",),
    side_by_side=(*_loads("v2", (*_BOTH, "Status"), _IN_FLIGHT), *_loads("v1beta1", _BOTH, (1, 16))),
    keys=(*_loads("v2", _BOTH, (16,)), *_loads("v1beta1", _BOTH, (16,))),
    schemes=_loads("v2", _BOTH, (1, 16)),
    latency=_loads("v2", ("Encrypt",), (16, 64)),
)
QUICK: Final = Plan(2, 0.1, ("h2corn",), _loads("v2", _BOTH, (16,)), *(_loads("v2", ("Encrypt",), (16,)),) * 3)
"""To see that it works: it measures nothing that counts."""
FULL: Final = Plan(
    rounds=9,
    seconds=1.0,
    transports=("h2corn", "grpcio"),
    side_by_side=(
        *_loads("v2", (*_BOTH, "Status"), _IN_FLIGHT),
        *_loads("v1beta1", (*_BOTH, "Version"), _IN_FLIGHT),
    ),
    keys=(*_loads("v2", (*_BOTH, "Status"), _IN_FLIGHT), *_loads("v1beta1", _BOTH, (16,))),
    schemes=_loads("v2", _BOTH, _IN_FLIGHT),
    latency=_loads("v2", _BOTH, _IN_FLIGHT),
)
