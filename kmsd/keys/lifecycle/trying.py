"""Show that a key encrypts and decrypts, without changing any key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmsd.errors import Conflict, InvalidRequest
from kmsd.keys.key import Key, KeyState
from kmsd.keys.keyring import Keyring

_ROUNDS_MOST: Final = 1000
_ROUND_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Timings:
    """The seconds that each round took."""

    encrypt: tuple[float, ...]
    decrypt: tuple[float, ...]


def check(rounds: int) -> None:
    """Raise InvalidRequest for a number of rounds that is not allowed."""
    if not 1 <= rounds <= _ROUNDS_MOST:
        raise InvalidRequest(f"rounds must be 1 to {_ROUNDS_MOST}, got {rounds}", "leave it out for 10")


async def test(keyring: Keyring, which: str, rounds: int) -> tuple[Key, Timings]:
    """Encrypt and decrypt random bytes with a key, `rounds` times. Raises Conflict if it cannot."""
    key = keyring.select(which)
    if not key.may_write:
        reason, hint = key.reason, key.hint
        if key.token.kind == "hmac":
            reason, hint = "it is an HMAC key", "test the AES key that it belongs to"
        elif key.state is KeyState.SIGNING:
            reason, hint = "it signs, and encrypts nothing", "kmsctl ca show says how it is"
        elif not reason:
            reason = "it may not encrypt, so only what it wrote before could show that it works"
            hint = "decrypt something that it wrote: kmsctl decrypt FILE"
        raise Conflict(f"key {key.label!r} cannot be tested: {reason}", hint)
    return key, await rounds_with(keyring, key, rounds)


async def rounds_with(keyring: Keyring, key: Key, rounds: int) -> Timings:
    """Make so many round trips with this key. Raises Conflict if it cannot write, and what the token says."""
    hsm, how = keyring.hsm(key), await keyring.scheme(key)
    if how is None:
        raise Conflict(f"key {key.label!r} cannot be tested: {key.reason}", key.hint)
    encrypt: list[float] = []
    decrypt: list[float] = []
    for _ in range(rounds):
        took = await how.probe(hsm, key.cka_id, _ROUND_SECONDS)
        encrypt.append(took[0])
        decrypt.append(took[1])
    return Timings(tuple(encrypt), tuple(decrypt))
