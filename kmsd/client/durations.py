"""Lengths of time as people write them. Pure."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+|[0-9]+(?:\.[0-9]+)?")

DURATION_MAX = 24 * 3600.0
"""The longest duration, in seconds."""


def parse_duration(text: str) -> float:
    """Return the seconds in `30`, `30s`, `1m30s`, `500ms`, `1h` (as Go writes durations). Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"a duration is written as 30 (seconds), 30s, 1m30s, 500ms or 1h, got {text[:40]!r}")
    if text[-1].isdigit():
        seconds = float(text)
    else:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 0 < seconds <= DURATION_MAX:
        raise ValueError(f"a duration must be more than 0 and at most 24h, got {text[:40]}")
    return seconds
