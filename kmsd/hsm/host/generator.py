"""The random generator of a token, as all sessions of its slot use it: mixed with the kernel's, and watched.

An IV that occurs twice under one AES-GCM key gives away what was encrypted with it, and lets anybody forge (NIST SP
800-38D, 8 and appendix A). A token's generator may be stuck, so what it gives is mixed with the kernel's, and is tested
for repetition (the idea is NIST SP 800-90B, 4.4.1): 16 bytes do not occur twice by chance. Asks no token itself.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

from kmsd.errors import WrongResult

_BLOCK: Final = 16
"""Bytes that are compared: too many to be the same by chance, few enough for an IV of a token's own."""
_REMEMBERED: Final = 8192
"""Blocks that a new one is compared with, besides those of its own draw."""
_KEPT: Final = 4
"""Blocks of a draw that are remembered: a generator that begins again gives the first ones again."""


class Generator:
    """The random generator, called on the threads of all sessions. stuck: whether the last draw repeated something:
    what was drawn before and not used yet is not to be used either."""

    def __init__(self) -> None:
        self.stuck = False
        self._lock = threading.Lock()
        self._order: deque[bytes] = deque()
        self._seen: set[bytes] = set()

    def mixed(self, drawn: bytes) -> bytes:
        """Mix a draw with as many bytes of the kernel's. Raises WrongResult if the draw repeats something."""
        self.check(drawn)
        size = len(drawn)
        both = int.from_bytes(drawn, "big") ^ int.from_bytes(os.urandom(size), "big")
        return both.to_bytes(size, "big")

    def check_iv(self, iv: bytes) -> None:
        """Note an IV of the token's own. Raises WrongResult if there is none, or it was used before."""
        if not any(iv):
            raise WrongResult(
                "the token encrypts with an IV of zeros and names none of its own: nothing is encrypted with it",
                "have the token looked at, or make a pair: kmsctl keygen LABEL --type pair",
            )
        self.check(iv.ljust(_BLOCK, b"\0"), "the token used the same IV twice")

    def check(self, drawn: bytes, repeated: str = "the token's random generator gave the same 16 bytes twice") -> None:
        """Note what the token gave. repeated: what it means that it is not new. Raises WrongResult if a whole block in
        it was given before.
        """
        blocks = [drawn[at : at + _BLOCK] for at in range(0, len(drawn) - _BLOCK + 1, _BLOCK)]
        with self._lock:
            self.stuck = len(set(blocks)) < len(blocks) or any(block in self._seen for block in blocks)
            if self.stuck:
                raise WrongResult(
                    f"{repeated}: nothing is encrypted with such a token",
                    "have the token looked at, or use another; kmsd asks it again at each round trip for health",
                )
            for block in blocks[:_KEPT]:
                self._order.append(block)
                self._seen.add(block)
            while len(self._order) > _REMEMBERED:
                self._seen.discard(self._order.popleft())
