"""The caller in words: the kernel vouches for the user, and the name of the program is the program's own word."""

from __future__ import annotations

import asyncio
import pwd
import re
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

_NAME_SECONDS: Final = 1.0
"""Seconds to wait for the name of a user, which may come from another machine."""
_NAME_KEPT: Final = 60.0
"""Seconds for which the name of a user is kept."""
_NAMES: Final = 256
"""Names of users that are kept at the most."""
_MOST_WORD: Final = 64
"""Characters of a word at the most."""
_STRANGE: Final = re.compile(r"[^A-Za-z0-9._+@/\\:()-]")
"""Characters that could end a word about a caller, or make another of its kind: blanks and equals signs above all."""


class Identity(Protocol):
    """The proven identity of a caller."""

    @property
    def pid(self) -> int:
        """The process that calls; 0 if it is on another machine."""

    def told(self, claim: str) -> str:
        """Return who calls, in words. claim: the name that the program gives itself; all else is proven."""


@dataclass(frozen=True)
class Caller:
    """A process as the kernel saw it when it connected. user: name of the uid, "?" if it has none."""

    uid: int
    user: str
    pid: int

    def told(self, claim: str) -> str:
        """Return the caller in words. claim: the name that the program gives itself; all else is the kernel's word."""
        return f"{word(claim) or '-'} uid={self.uid} user={self.user}"


def word(text: str) -> str:
    """Return the first word of a text, cut to a bounded length.

    Every character that could make more than one word of it becomes a question mark.
    """
    return _STRANGE.sub("?", text.split(" ", 1)[0][:_MOST_WORD])


class Names:
    """The names of users, kept for a minute."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, float]] = {}

    async def name(self, uid: int) -> str:
        """Return the name of a user; "?" if it has none, or does not come in time."""
        name, until = self._names.get(uid, ("", 0.0))
        if monotonic() >= until:
            name = "?"
            with suppress(TimeoutError):
                async with asyncio.timeout(_NAME_SECONDS):
                    name = await asyncio.to_thread(_user, uid)
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[uid] = name, monotonic() + _NAME_KEPT
        return name


def _user(uid: int) -> str:
    try:
        return word(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return "?"
