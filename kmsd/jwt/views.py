"""The keys of service account tokens as operators see them. Changes nothing."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from kmsd.errors import KmsdError, Misconfigured, NotFound, Unavailable, short
from kmsd.jwt.claims import LEEWAY
from kmsd.jwt.kept import Proven
from kmsd.jwt.public_key import VerifyingKey
from kmsd.keys.key import Key
from kmsd.keys.labels import is_archived, pending_label

if TYPE_CHECKING:
    from kmsd.jwt.keys import JwtKeys

State = Literal["signing", "pending", "verifying", "trusted", "unusable", "retired"]
_ORDER: Final[Sequence[State]] = ("signing", "pending", "verifying", "trusted", "unusable", "retired")
_STOPPED: Final = re.compile(r"@([0-9]{8}T[0-9]{6}Z)$")


@dataclass(frozen=True)
class Use:
    """The use of a key since kmsd started. last: Unix seconds, 0 if there was none."""

    signed: int = 0
    last: float = 0.0


UNUSED: Final = Use()


@dataclass(frozen=True)
class KeyView:
    """A key as operators see it. key: on the token; None if it is not to be seen there, or was never. verifying: None
    while it is not proven. stopped, needed_until: Unix seconds, 0 if there is no such time. error: why it is unusable,
    or not proven."""

    state: State
    key: Key | None
    verifying: VerifyingKey | None
    published: bool
    proven: bool
    excluded: bool = False
    since: float = 0.0
    stopped: float = 0.0
    needed_until: float = 0.0
    note: str = ""
    use: Use = UNUSED
    error: KmsdError | None = None

    @property
    def kid(self) -> str:
        """The id by which tokens name it; empty while it is not proven."""
        return self.verifying.kid if self.verifying is not None else ""


def of(keys: JwtKeys) -> list[KeyView]:
    """Return all keys: that which signs, those that wait, those that signed, trusted ones, and the rest."""
    found = [_view(keys, key) for key in keys.all]
    seen = {each.kid for each in found}
    found += [_gone(keys, each) for kid, each in keys.kept.proven.items() if kid not in seen]
    found += [
        KeyView("trusted", None, each.verifying, True, False, each.excluded, each.since, note=each.note)
        for each in keys.kept.trusted.values()
    ]
    return sorted(found, key=lambda each: _ORDER.index(each.state))


def find(keys: JwtKeys, kid: str) -> KeyView:
    """Return the key with this kid. Raises NotFound."""
    for each in of(keys):
        if kid and each.kid == kid:
            return each
    raise NotFound(f"no key with the kid {short(kid)} signs or verifies tokens here", "kmsctl jwt keys lists them")


def _view(keys: JwtKeys, key: Key) -> KeyView:
    proven, failed = keys.proven(key), keys.failed(key)
    known = proven.verifying if proven is not None else _known(keys, key)
    if is_archived(key.label):
        return KeyView("retired", key, known, False, False)
    if known is None:
        return KeyView("unusable", key, None, False, False, error=failed)
    its = keys.kept.proven.get(known.kid)
    stopped = _stopped(key.label)
    state: State = "pending" if key.label == pending_label(keys.label) else "verifying"
    return KeyView(
        "signing" if keys.signs(key) else state,
        key,
        known,
        its is not None,
        proven is not None,
        since=its.since if its is not None else 0.0,
        stopped=stopped,
        needed_until=_needed_until(keys, stopped, its),
        use=keys.use(known.kid),
        error=failed,
    )


def _known(keys: JwtKeys, key: Key) -> VerifyingKey | None:
    return next((each.verifying for each in keys.kept.proven.values() if each.key_id == key.key_id), None)


def _gone(keys: JwtKeys, each: Proven) -> KeyView:
    """Return a key that is published and not to be seen on any token."""
    error: KmsdError = Unavailable("its token is away", "kmsctl status says why")
    if keys.complete:
        kid = each.verifying.kid
        error = Misconfigured(
            f"the key {each.key_id!r} is gone from token {each.place!r}, and is published for what it signed",
            f"to refuse these: kmsctl jwt retire {kid} --confirm {kid}",
        )
    return KeyView("verifying", None, each.verifying, True, False, since=each.since, error=error)


def _needed_until(keys: JwtKeys, stopped: float, its: Proven | None) -> float:
    """Return when the last token ends that a key may have signed. Other kmsds take a look to see that it signs no more,
    so their tokens may be a little younger."""
    if not stopped:
        return 0.0
    return stopped + max(its.longest if its is not None else 0, keys.longest) + 2 * LEEWAY


def _stopped(label: str) -> float:
    """Return when a key stopped signing, by its label; 0 if it did not."""
    found = None if is_archived(label) else _STOPPED.search(label)
    return float(calendar.timegm(time.strptime(found[1], "%Y%m%dT%H%M%SZ"))) if found else 0.0
