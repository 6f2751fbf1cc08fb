"""The key managers of a proxy, as they are shown: their looks, their order, and sentences about them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kmsd.client import Certificate, Upstream, escape
from kmstui.styles import BAD, GOOD, WARN, Colour, Look
from kmstui.text import duration, plural

_NAMED_MOST = 4
"""Key managers that a sentence names."""
_EXPIRES_SOON = 14 * 86400
"""Seconds before the end of a certificate from which on kmsd warns of it."""

_IN_USE = Look(GOOD, "in use", Colour.GOOD)
_WELL = Look(GOOD, "well", Colour.GOOD)
_AWAY = Look(BAD, "away", Colour.BAD)


def look(upstream: Upstream) -> Look:
    """Return the look of a key manager: in use is the one that answered the last Status."""
    if not upstream.up:
        return _AWAY
    return _IN_USE if upstream.last else _WELL


def why(upstream: Upstream) -> str:
    """Return why calls do not go to a key manager; empty if they do."""
    if upstream.up:
        return ""
    return upstream.reason or upstream.healthz or "it has not answered yet"


def tally(upstreams: Sequence[Upstream]) -> str:
    """Return how many key managers are well."""
    return f"{sum(each.up for each in upstreams)} of {len(upstreams)} well"


def elsewhere(upstreams: Sequence[Upstream]) -> str:
    """Return in a sentence where the keys of a proxy are. The addresses are escaped."""
    named = [escape(each.address) for each in upstreams[:_NAMED_MOST]]
    left = len(upstreams) - len(named)
    if left:
        named.append(f"{left} more")
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"This kmsd is a proxy without a token: its keys are with {_many(len(upstreams))} {listed}."


def _many(number: int) -> str:
    return "the key manager" if number == 1 else "the key managers"


def remaining(certificate: Certificate, now: datetime) -> tuple[str, str]:
    """Return the glyph and the words for how long a certificate lasts."""
    ends = certificate.not_after
    if ends is None:
        return WARN, "its end is not known"
    left = (ends - now).total_seconds()
    if left <= 0:
        return BAD, f"ended {duration(-left)} ago"
    glyph = WARN if left < _EXPIRES_SOON else GOOD
    return glyph, f"{plural(int(left // 86400), 'day')} left" if left >= 2 * 86400 else f"{duration(left)} left"
