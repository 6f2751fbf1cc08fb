"""Keep what is known of published keys across restarts, in the state directory: trusted keys, those that were proven,
and the time of the set.

Public keys from outside are kept here and nowhere else: on a token, anybody who reaches it could put one that passes
for them, and forge what it verifies. What somebody else may have written is not believed (`kmsd.state`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kmsd import state
from kmsd.errors import InvalidRequest, Misconfigured, Unavailable
from kmsd.jwt.public_key import VerifyingKey, from_der
from kmsd.jwt.published import NEVER, Stamp

FILE: Final = "jwt.json"
MOST: Final = 1024 * 1024
"""Bytes of that file."""
TRUSTED_MOST: Final = 64
PROVEN_MOST: Final = 256
_LATEST_MS: Final = 253_402_300_800_000
"""The year 10000, before which all times are."""


@dataclass(frozen=True)
class Proven:
    """A public key that a key on a token was shown to have. key_id: text of its CKA_ID. place: name of its token.
    since: when it was published first here, in Unix seconds. longest: seconds for which a token that it signed here may
    be in force at the most; 0 if it signed none."""

    verifying: VerifyingKey
    key_id: str
    place: str
    since: float
    longest: int = 0


@dataclass(frozen=True)
class Trusted:
    """A public key from outside. since: Unix seconds. excluded: whether discovery documents leave it out. note: the
    operator's words."""

    verifying: VerifyingKey
    since: float
    excluded: bool
    note: str


@dataclass(frozen=True)
class Kept:
    """The whole of what is kept. proven, trusted: by kid."""

    stamp: Stamp = NEVER
    proven: Mapping[str, Proven] = field(default_factory=dict)
    trusted: Mapping[str, Trusted] = field(default_factory=dict)

    def with_proven(self, proven: Proven) -> Kept:
        """Return the same with one more proven key, or another in the place of the one with its kid."""
        return replace(self, proven={**self.proven, proven.verifying.kid: proven})

    def with_trusted(self, trusted: Trusted) -> Kept:
        """Return the same with one more trusted key, or another in the place of the one with its kid."""
        return replace(self, trusted={**self.trusted, trusted.verifying.kid: trusted})

    def without_proven(self, kid: str) -> Kept:
        """Return the same without the proven key with this kid."""
        return replace(self, proven={each: key for each, key in self.proven.items() if each != kid})

    def without_trusted(self, kid: str) -> Kept:
        """Return the same without the trusted key with this kid."""
        return replace(self, trusted={each: key for each, key in self.trusted.items() if each != kid})


def load(directory: Path) -> Kept:
    """Return what was kept; nothing of what is damaged, or not believed."""
    try:
        told = json.loads(state.recall_file(directory, FILE, MOST) or b"{}")
        return _kept(told) if isinstance(told, dict) else Kept()
    except (ValueError, TypeError, KeyError, RecursionError, InvalidRequest):
        return Kept()


def save(directory: Path, kept: Kept) -> None:
    """Keep this, replacing the file whole. Waits for the disk. Raises Unavailable."""
    try:
        state.remember_file(directory, FILE, json.dumps(_told(kept)).encode())
    except (OSError, Misconfigured) as error:
        raise Unavailable(
            f"what is published cannot be kept in {directory}: {state.reason(error)}", "let kmsd write in state.dir"
        ) from error


def _told(kept: Kept) -> dict[str, Any]:
    return {
        "digest": kept.stamp.digest,
        "changed_unix_ms": kept.stamp.ms,
        "proven": [
            {
                "key": _text(each.verifying),
                "key_id": each.key_id,
                "token": each.place,
                "since": each.since,
                "longest": each.longest,
            }
            for each in kept.proven.values()
        ],
        "trusted": [
            {
                "key": _text(each.verifying),
                "since": each.since,
                "exclude_from_discovery": each.excluded,
                "note": each.note,
            }
            for each in kept.trusted.values()
        ],
    }


def _kept(told: dict[str, Any]) -> Kept:
    ms = int(told.get("changed_unix_ms", 0))
    made = Kept(Stamp(str(told.get("digest", "")), ms if 0 <= ms < _LATEST_MS else 0))
    for each in told.get("proven", [])[:PROVEN_MOST]:
        longest, since = int(each["longest"]), float(each["since"])
        made = made.with_proven(Proven(_key(each), str(each["key_id"]), str(each["token"]), since, longest))
    for each in told.get("trusted", [])[:TRUSTED_MOST]:
        excluded = each["exclude_from_discovery"] is True
        made = made.with_trusted(Trusted(_key(each), float(each["since"]), excluded, str(each["note"])))
    return made


def _text(key: VerifyingKey) -> str:
    return base64.b64encode(key.der).decode("ascii")


def _key(told: dict[str, Any]) -> VerifyingKey:
    return from_der(base64.b64decode(told["key"], validate=True))
