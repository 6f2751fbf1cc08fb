"""Decide whether a key may be let go, retired or destroyed: the one rule of proof, in words.

What a key wrote is in etcd, and reading it may be put off for days; and every kmsd that shares the token notes its own
uses alone. So no key goes because it was idle here. It goes if nothing stored needs it, which a scan of etcd shows; if
it was retired; or if it cannot have written: this kmsd made it and has noted all its life, in which it was not used.

Changes nothing and looks at no token. An empty sentence means that nothing speaks against letting the key go.
"""

from __future__ import annotations

import calendar
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from kmsd.errors import short
from kmsd.formats.keyid import Names
from kmsd.keys.key import Key, KeyState
from kmsd.keys.labels import role

Deed = Literal["retire", "destroy"]

_SCAN_AGE: Final = 900.0
"""Seconds after which a scan of etcd proves nothing: objects are written all the time."""
_CLOCKS_APART: Final = 60.0
"""Seconds that the clock of the machine which scanned may be ahead."""
_FOLLOW: Final = 300.0
"""Seconds after a rotation in which a kube-apiserver may still write under the old key (KEP-3299: it polls Status
every minute, and goes on with what it has for some minutes when that fails)."""
_SCAN_AGAIN: Final = "scan again (kmsctl etcd scan --report FILE)"
_AGAIN: Final = f"rewrite them and {_SCAN_AGAIN}"


class UseRecords(Protocol):
    """The uses of keys that this kmsd knows of, and what it knows of their making."""

    @property
    def since(self) -> float:
        """The time (Unix seconds) since which uses have been noted without a gap."""

    @property
    def shared(self) -> bool:
        """Whether this kmsd serves tenants: a use that it notes does not tell of which cluster then."""

    def last(self, key_id: str) -> float:
        """Return the Unix seconds of a key's last use, 0 if none is known."""

    def unused(self, key_id: str) -> bool:
        """Return whether this kmsd made the key, as another than the write key, and has noted every moment since, in
        which it neither was used nor had the write label."""

    def made(self, key_id: str) -> None:
        """Note that this kmsd has made a key just now, under another label than the write label."""


@dataclass(frozen=True)
class KeyUseEvidence:
    """The number of stored objects that name one key, by an id, by a label, or by both."""

    names: tuple[str, ...]
    objects: int


@dataclass(frozen=True)
class ScanEvidence:
    """The count of what is stored: evidence for letting a key go. Times in Unix seconds."""

    started: float
    finished: float
    prefix: str
    objects: int
    unknown: int
    uses: tuple[KeyUseEvidence, ...]


def in_use(key: Key) -> str:
    """Return why a key is needed, whatever a scan counts; empty if it does not write."""
    if key.state is KeyState.WRITE:
        return f"{key.label!r} is the write key"
    if key.state is KeyState.PENDING:
        return f"{key.label!r} is about to become the write key"
    return ""


def may_be_needed(
    key: Key, deed: Deed, scan: ScanEvidence | None, uses: UseRecords, keys: Sequence[Key]
) -> tuple[str, str]:
    """Return why a key that could have written may still be needed, and what to do; both empty if something shows that
    it is not.

    scan: what accompanies the request; it decides if it is given. keys: all that the tokens show.
    """
    if scan is not None:
        for why, hint in (
            _no_proof(scan),
            _counted(key, scan, keys),
            _since_scan(key, scan, uses),
            _elsewhere(key, scan, uses, keys),
        ):
            if why:
                return why, hint
        return "", ""
    used = uses.last(key.key_id)
    if key.state is KeyState.ARCHIVED and used <= _stamped(key.label):
        return "", ""
    if key.state is KeyState.READABLE and role(key.label) == key.label and uses.unused(key.key_id):
        return "", ""
    return f"nothing shows that no stored object needs {key.label!r}: {_doubt(key, used, uses)}", _way(key, deed)


def _doubt(key: Key, used: float, uses: UseRecords) -> str:
    """Return what is known of a key's uses, for people: other nodes note their own."""
    now = time.time()
    if not key.reads:
        return "it is unusable as it is, and what it may have encrypted is not known"
    if key.state is KeyState.ARCHIVED:
        return f"it was used {_ago(now - used)} ago, after it was retired"
    if used:
        return f"this kmsd used it {_ago(now - used)} ago, and others may have, too"
    return f"this kmsd has noted no use of it for {_ago(now - uses.since)}, but others note their own"


def _way(key: Key, deed: Deed) -> str:
    """Return the commands that show whether a key is needed, and let it go then. A key that does not read, or has been
    retired, cannot be retired."""
    name = shlex.quote(key.label or key.key_id)
    retires = deed == "retire" or (key.reads and key.state is not KeyState.ARCHIVED)
    return (
        "count what etcd holds: kmsctl etcd scan --report FILE, then "
        f"kmsctl keys {'retire' if retires else 'destroy'} {name} --report FILE"
    )


def _no_proof(scan: ScanEvidence) -> tuple[str, str]:
    """Return why a scan shows nothing, whatever it counted."""
    now = time.time()
    if scan.finished > now + _CLOCKS_APART:
        return "the scan ended in the future", f"the clocks of two machines differ: set them, and {_SCAN_AGAIN}"
    if now - scan.finished > _SCAN_AGE:
        return f"the scan is {_ago(now - scan.finished)} old", f"{_SCAN_AGAIN}; at most 15 minutes may pass"
    if not "/registry/".startswith(scan.prefix.rstrip("/") + "/"):
        return f"the scan covers {short(scan.prefix)} only", f"{_SCAN_AGAIN}, the whole of it: /registry"
    return "", ""


def _counted(key: Key, scan: ScanEvidence, keys: Sequence[Key]) -> tuple[str, str]:
    """Return what the scan counted that needs the key, or may: what names it in any spelling, by its id or by a label
    that it has or had; and what names no key that there is."""
    if scan.unknown:
        return f"{scan.unknown} stored values could not be read by the scan and may need any key", _AGAIN
    mine, known = _names(key), _names(*keys)
    for use in scan.uses:
        if use.objects and mine.include(*use.names):
            return f"{_objects(use.objects, 'need')} {key.label!r}", _AGAIN
    for use in scan.uses:
        if use.objects and not known.include(*use.names):
            called = " and ".join(short(name) for name in use.names if name)
            return f"{_objects(use.objects, 'name')} {called}, which no key is called, and may need any key", _AGAIN
    return "", ""


def _objects(number: int, verb: str) -> str:
    return f"1 stored object {verb}s" if number == 1 else f"{number} stored objects {verb}"


def _names(*keys: Key) -> Names:
    return Names.of((key.key_id, (key.label, role(key.label))) for key in keys if key.token.seals)


def _elsewhere(key: Key, scan: ScanEvidence, uses: UseRecords, keys: Sequence[Key]) -> tuple[str, str]:
    """Return why a scan may be of another cluster's etcd, or of an empty one: nothing in it names a key that has, or
    had, the label of this one, this one was not retired, and this kmsd has not used it for its own cluster. What names
    other keys has spoken against it already."""
    if not any(use.objects for use in scan.uses):
        return (
            f"none of the scan's {scan.objects} objects was written by a key of these tokens, so it shows nothing",
            f"{_SCAN_AGAIN}: of the etcd whose kube-apiserver uses this kmsd",
        )
    label = role(key.label)
    alike = _names(*(each for each in keys if role(each.label) == label))
    if any(use.objects and alike.include(*use.names) for use in scan.uses) or uses.unused(key.key_id):
        return "", ""
    used = uses.last(key.key_id)
    if (used and not uses.shared) or (key.state is KeyState.ARCHIVED and used <= _stamped(key.label)):
        return "", ""
    return (
        f"none of the scan's {scan.objects} objects was written under the label {label!r}, and this kmsd has not used "
        f"{key.label!r} for a cluster of its own: another cluster than the one that was scanned may need it",
        f"{_SCAN_AGAIN}: of the etcd whose kube-apiserver used this key",
    )


def _since_scan(key: Key, scan: ScanEvidence, uses: UseRecords) -> tuple[str, str]:
    """Return why the key may have written something that the scan did not see any more."""
    now, known, used = time.time(), uses.since, uses.last(key.key_id)
    if used > scan.started:
        return f"{key.label!r} was used {_ago(now - used)} ago, after the scan began", _AGAIN
    if known > scan.started and not uses.unused(key.key_id):
        return (
            f"it is not known whether {key.label!r} was used since the scan began: uses are noted only since "
            f"{_ago(now - known)} ago",
            _SCAN_AGAIN,
        )
    stamped = _stamped(key.label)
    if stamped and scan.started < stamped + _FOLLOW:
        return (
            f"the scan began less than {_FOLLOW / 60:.0f} minutes after {key.label!r} got that label, and a "
            "kube-apiserver may have gone on writing with it until then",
            f"{_SCAN_AGAIN}, in {_ago(stamped + _FOLLOW - now)} at the soonest",
        )
    return "", ""


def _stamped(label: str) -> float:
    """Return when a key gave up the write label, or was retired, in Unix seconds; 0 if its label does not say."""
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
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
