"""Tell that a certificate ends soon, or has ended."""

from __future__ import annotations

import time
from typing import Final

_SECONDS: Final = 14 * 86400.0
"""A certificate that ends within so many seconds ends soon; one that lasts no longer than eight weeks in all, within
the last quarter of its time: whoever renews such certificates does so after two thirds."""


def soon(not_before: float, not_after: float) -> bool:
    """Return whether a certificate that is valid between these times (Unix seconds) ends soon, has ended, or has not
    begun."""
    return not_before > time.time() or not_after - time.time() < min(_SECONDS, (not_after - not_before) / 4)


def how_long(not_after: float, not_before: float = 0.0) -> str:
    """Return in words when a certificate ends, or that it has not begun. Both are Unix seconds."""
    if not_before > time.time():
        begins = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(not_before))
        return f"begins only at {begins}, or the clock of this machine is slow"
    left = not_after - time.time()
    if left <= 0:
        return "has ended"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if left >= 2 * size:
            return f"ends in {left / size:.0f} {unit}"
    return f"ends in {left:.0f} seconds"
