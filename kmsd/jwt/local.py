"""Sign service account tokens with keys on tokens of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from kmsd.bucket import Bucket
from kmsd.deadline import left
from kmsd.errors import KmsdError, TooOften
from kmsd.jwt.api import KeySet, Signed
from kmsd.jwt.fetchers import Fetchers
from kmsd.jwt.keys import JwtKeys
from kmsd.jwt.public_key import HASHES, base64url

_LOOK_PAUSE: Final = 5.0
"""Seconds between two looks at the tokens that calls for the published keys may bring about."""
_LOOK_SECONDS: Final = 1.0
"""Time limit for such a look: what is known is answered then."""


class LocalJwt:
    """The signer with the keys of one label. fetchers: told who asks for them. look: looks at the tokens. max_rate:
    tokens in a second, 0 for any number."""

    def __init__(
        self, keys: JwtKeys, fetchers: Fetchers, look: Callable[[], Awaitable[None]], max_rate: float = 0.0
    ) -> None:
        self.keys = keys
        self.fetchers = fetchers
        self._look = look
        self._max_rate = max_rate
        self._bucket = Bucket(max(1.0, max_rate))
        self._looked = -_LOOK_PAUSE

    async def sign(self, claims: str, until: float) -> Signed:
        """Sign claims, and check the signature with the proven public key before anybody gets it: a token that is ill
        must hand out no bad tokens. Raises TooOften, WrongResult, and what the token says."""
        if self._max_rate and (wait := self._bucket.wait(self._max_rate)):
            raise TooOften(
                f"{self._max_rate:g} service account tokens were signed in this second, which is all that may be",
                f"try again in {wait:.2f} s; jwt.max_rate is the bound",
            )
        key = self.keys.signer()
        header, hash_ = key.verifying.header, HASHES[key.verifying.alg]
        digest = hashlib.new(hash_.name, f"{header}.{claims}".encode("ascii")).digest()
        try:
            signature = await key.pair.sign_jose(digest, hash_, left(until))
        except KmsdError as error:
            error.key_id_sha256 = key.key.key_id_sha256
            raise
        self.keys.used(key)
        return Signed(header, base64url(signature), key.verifying.kid, key.key.key_id_sha256)

    async def key_set(self, who: str, until: float) -> KeySet:
        """Return the published keys as far as they are known. kube-apiserver asks when somebody shows it a token of a
        key that it does not know: then another kmsd may have made one, and the tokens are looked at. Raises why no key
        is known."""
        if monotonic() - self._looked >= _LOOK_PAUSE:
            self._looked = monotonic()
            with contextlib.suppress(KmsdError, TimeoutError):
                async with asyncio.timeout(min(_LOOK_SECONDS, left(until) / 2)):
                    await self._look()
        found = self.keys.published()
        if who:
            self.fetchers.fetched(who, found.ms)
        return found

    async def longest(self, until: float) -> int:
        """Return the seconds for which a token may be in force at the most."""
        return self.keys.longest
