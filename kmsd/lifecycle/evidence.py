"""Whether a key is still needed, in words: what is known of its uses, and what a scan of etcd counted.

Changes nothing and looks at no token. An empty sentence means that nothing speaks against letting the key go.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from kmsd.errors import short
from kmsd.picture import Key, State, role

_SCAN_AGE: Final = 900.0
"""Seconds after which a scan of etcd proves nothing: objects are written all the time."""
_CLOCKS_APART: Final = 60.0
"""Seconds that the clock of the machine which scanned may be ahead."""
_FOLLOW: Final = 300.0
"""Seconds after a rotation in which a kube-apiserver may still write under the old key (KEP-3299: it polls Status
every minute, and goes on with what it has for some minutes when that fails)."""
_AGAIN: Final = "rewrite them and scan again (kmsctl etcd scan --report FILE)"


@dataclass(frozen=True)
class Uses:
    """What is known of the uses of keys.

    last: Unix seconds of a key id's last use, 0 if none is known. since: since when (Unix seconds) uses have been noted
    without a gap. idle: seconds since its last use before a key may go without its label being given once more.
    """

    last: Callable[[str], float]
    since: float
    idle: float


@dataclass(frozen=True)
class Scan:
    """What is stored, counted: evidence for retiring a key. Times in Unix seconds.

    uses: (key id or label, whether it is a label, objects).
    """

    started: float
    finished: float
    prefix: str
    objects: int
    unknown: int
    uses: tuple[tuple[str, bool, int], ...]


def in_use(key: Key, uses: Uses) -> str:
    """Why a key is needed; empty if nothing is known to need it."""
    if key.state is State.WRITE:
        return f"{key.label!r} is the write key"
    if key.state is State.PENDING:
        return f"{key.label!r} is about to become the write key"
    if not key.reads:
        # k8s-kms-plugin needs no CKA_ID, and an attribute can be mended: what does not serve now may have written.
        unknown = key.token.seals or key.token.kind == "other"
        return f"{key.label!r} is unusable as it is, and what it may have encrypted is not known" if unknown else ""
    now = time.time()
    used = uses.last(key.key_id)
    if used and now - used < uses.idle:
        return f"{key.label!r} was used {_ago(now - used)} ago"
    known = uses.since
    if not used and key.created_ms < known * 1000 and now - known < uses.idle:
        return f"it is not known whether {key.label!r} is in use: uses are noted only since {_ago(now - known)} ago"
    return ""


def still_needed(key: Key, scan: Scan | None, uses: Uses, known: Collection[str]) -> tuple[str, str]:
    """Why this scan does not show that nothing needs the key, and what to do; both empty if it does.

    known: the ids of the keys, and the labels that they have or had as write keys.
    """
    if scan is None:
        return (
            f"nothing shows that no stored object needs {key.label!r}",
            "count what etcd holds: kmsctl etcd scan --report FILE, then kmsctl keys retire KEY --report FILE",
        )
    for why, hint in (_no_proof(scan), _counted(key, scan, known), _since_scan(key, scan, uses)):
        if why:
            return why, hint
    return "", ""


def _no_proof(scan: Scan) -> tuple[str, str]:
    """Why a scan shows nothing, whatever it counted."""
    now = time.time()
    if scan.finished > now + _CLOCKS_APART:
        return "the scan ended in the future", "the clocks of two machines differ: set them, and scan again"
    if now - scan.finished > _SCAN_AGE:
        return f"the scan is {_ago(now - scan.finished)} old", "scan again; at most 15 minutes may pass"
    if not "/registry/".startswith(scan.prefix.rstrip("/") + "/"):
        return f"the scan covers {short(scan.prefix)} only", "scan the whole of it, /registry"
    return "", ""


def _counted(key: Key, scan: Scan, known: Collection[str]) -> tuple[str, str]:
    """What the scan counted that needs the key, or may."""
    if scan.unknown:
        return f"{scan.unknown} stored values could not be read by the scan and may need any key", _AGAIN
    for name, by_label, objects in scan.uses:
        # What looks like a label may be a key id: of a token that chooses its IVs itself.
        if objects and (name == key.key_id or (by_label and name == role(key.label))):
            return f"{objects} stored objects need {key.label!r}", _AGAIN
        if objects and by_label and name not in known:
            return (
                f"{objects} stored objects name the label {short(name)}, which no key has: it may be this one",
                _AGAIN,
            )
    return "", ""


def _since_scan(key: Key, scan: Scan, uses: Uses) -> tuple[str, str]:
    """What may have been written under the key where the scan had been already."""
    now, known, used = time.time(), uses.since, uses.last(key.key_id)
    if used > scan.started:
        return f"{key.label!r} was used {_ago(now - used)} ago, after the scan began", _AGAIN
    if key.created_ms < known * 1000 and known > scan.started:
        return (
            f"it is not known whether {key.label!r} was used since the scan began: uses are noted only since "
            f"{_ago(now - known)} ago",
            "scan again",
        )
    rotated = _rotated_at(key.label)
    if rotated and scan.started < rotated + _FOLLOW:
        return (
            f"the scan began less than {_FOLLOW / 60:.0f} minutes after {key.label!r} gave up the write label, "
            "and a kube-apiserver may have gone on with it until then",
            "scan again",
        )
    return "", ""


def _rotated_at(label: str) -> float:
    """When a key gave up the write label, in Unix seconds; 0 if its label does not say."""
    _, at, stamp = label.rpartition("@")
    try:
        return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))) if at else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
