"""The rotation of the key that signs service account tokens, as it stands: told from what the kmsds of all nodes say.

All its state is in labels on the token and in the kmsds, so whoever asks again goes on where somebody else left. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kmsd.client.model.jwt import Jwt, JwtKey


class JwtStage(StrEnum):
    """The stages of a rotation, in their order."""

    PUBLISH = "publish"
    """No rotation goes on: the next key is to be made and published."""
    FETCH = "fetch"
    """The next key is published; not everybody has fetched it."""
    SIGN = "sign"
    """Everybody has: it is to sign."""
    FOLLOW = "follow"
    """It signs, but a node signs with another key still."""
    WAIT = "wait"
    """Tokens that the old key signed may be in force."""
    RETIRE = "retire"
    """None is: the old key is to be retired."""


@dataclass(frozen=True)
class JwtRotation:
    """A rotation as it stands. old: the key that signs, or signed before; None if none did. new: the key that is to
    sign, or signs; None while there is none. waits: what it waits for, in words. until: when it may go on by itself;
    None if that is not known."""

    stage: JwtStage
    old: JwtKey | None
    new: JwtKey | None
    waits: tuple[str, ...] = ()
    until: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing of a rotation is left to be done."""
        return self.stage is JwtStage.PUBLISH


def rotation_of(found: Mapping[str, Jwt]) -> JwtRotation:
    """Return the rotation as it stands. found: what each node says, by its name; the first is whose token is changed,
    and the times are by its clock."""
    own = next(iter(found.values()))
    signer, waiting = signing(own), pending(own)
    if waiting is not None:
        waits, until = _behind(found, waiting)
        return JwtRotation(JwtStage.FETCH if waits else JwtStage.SIGN, signer, waiting, waits, until)
    old = before(own)
    if old is None or signer is None:
        return JwtRotation(JwtStage.PUBLISH, signer, None)
    others = tuple(
        f"{name} signs with another key still" for name, each in found.items() if _kid(signing(each)) != signer.kid
    )
    if others:
        return JwtRotation(JwtStage.FOLLOW, old, signer, others)
    ends = [key.needed_until for each in found.values() for key in each.keys if key.kid == old.kid and key.needed_until]
    until = max(ends, default=None)
    if until is not None and own.now is not None and until > own.now:
        return JwtRotation(JwtStage.WAIT, old, signer, ("the longest token that the old key signed",), until)
    return JwtRotation(JwtStage.RETIRE, old, signer)


def signing(found: Jwt) -> JwtKey | None:
    """Return the key that signs; None if none does."""
    return next((key for key in found.keys if key.state == "signing"), None)


def pending(found: Jwt) -> JwtKey | None:
    """Return the key that is to sign next; None if there is none."""
    return next((key for key in found.keys if key.state == "pending"), None)


def before(found: Jwt) -> JwtKey | None:
    """Return the published key that stopped signing last; None if there is none."""
    stopped = [key for key in found.keys if key.state == "verifying" and key.published and key.stopped is not None]
    return max(stopped, key=lambda key: (key.stopped is not None, key.stopped), default=None)


def _behind(found: Mapping[str, Jwt], new: JwtKey) -> tuple[tuple[str, ...], datetime | None]:
    """Return who does not know a key that is to sign, in words, and until when they go by what they know."""
    waits, times = [], []
    for name, each in found.items():
        key = next((key for key in each.keys if key.kid == new.kid and key.published), None)
        if key is None or not new.kid:
            waits.append(f"{name} does not publish it yet")
            continue
        late = [fetcher.who for fetcher in each.fetchers if not fetcher.current]
        if late:
            waits.append(f"{name}: {_named(late)} {'has' if len(late) == 1 else 'have'} not fetched it")
        known = key.published_since + timedelta(seconds=each.refresh_hint) if key.published_since else None
        if known is not None and each.now is not None and known > each.now:
            times.append(known)
            waits.append(f"{name}: others may keep what they fetched before for {each.refresh_hint:g} s")
    return tuple(waits), max(times, default=None)


def _named(who: Sequence[str]) -> str:
    return ", ".join(who[:4]) + (f" and {len(who) - 4} more" if len(who) > 4 else "")


def _kid(key: JwtKey | None) -> str:
    return key.kid if key is not None else ""
