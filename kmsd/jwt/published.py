"""The time of the published keys, which moves when they change, and never backwards. Pure.

kube-apiserver takes another time for another set of keys, and shows it in its metrics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kmsd.jwt.api import PublicKey

_STEP_MS: Final = 1000
"""The least by which the time moves, should the clock have been set back."""


@dataclass(frozen=True)
class Stamp:
    """The time of a set of keys. digest: of the set, in hexadecimal. ms: milliseconds since the epoch."""

    digest: str = ""
    ms: int = 0

    def of(self, keys: Iterable[PublicKey], now_ms: int) -> Stamp:
        """Return the stamp of these keys: this one if they are the same, else one that is later."""
        digest = _digest(keys)
        if digest == self.digest:
            return self
        return Stamp(digest, now_ms if now_ms > self.ms else self.ms + _STEP_MS)


NEVER: Final = Stamp()
"""The stamp before any set of keys."""


def in_order(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return keys in the one order in which they are always published, each once: kube-apiserver takes another order
    for a change. A key that anybody publishes openly is not left out of discovery documents."""
    found: dict[str, PublicKey] = {}
    for key in keys:
        known = found.get(key.kid)
        found[key.kid] = key if known is None or known.excluded else known
    return tuple(found[kid] for kid in sorted(found))


def _digest(keys: Iterable[PublicKey]) -> str:
    whole = hashlib.sha256()
    for key in in_order(keys):
        whole.update(hashlib.sha256(key.der).digest())
        whole.update(b"\1" if key.excluded else b"\0")
        whole.update(hashlib.sha256(key.kid.encode()).digest())
    return whole.hexdigest()
