"""One key as it is judged, and all keys of all tokens at one moment. Data alone: `inventory` judges it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kmsd.crypto.schemes import Scheme
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.labels import MAX_KEY_ID
from kmsd.problem import Problem

AES_BITS: Final = (128, 192, 256)


class KeyState(Enum):
    """The states in which a key can be."""

    WRITE = "write"
    READABLE = "readable"
    PENDING = "pending"
    UNUSABLE = "unusable"
    COMPANION = "companion"
    ARCHIVED = "archived"
    """A retired key: it still reads, and may be destroyed."""
    SIGNING = "signing"
    """A key pair that signs, and encrypts nothing."""
    PLANTED = "planted"
    """A public object, which anybody who reaches the token may have made, with a label or an id of a key of ours."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the keyring.

    place: name of its token in the configuration. key_id: text of CKA_ID, empty if there is none.
    key_id_sha256: lower hex, as kube-apiserver logs it.
    scheme: how it writes; None if it cannot. header: first JWE segment when it writes, native form; legacy_header: in
    k8s-kms-plugin's form.
    """

    token: TokenKey
    place: str
    key_id: str
    key_id_sha256: str
    state: KeyState
    reason: str
    hint: str
    created_ms: int
    scheme: Scheme | None
    header: bytes
    legacy_header: bytes

    @property
    def label(self) -> str:
        return self.token.label

    @property
    def cka_id(self) -> bytes:
        return self.token.cka_id

    @property
    def enc(self) -> str:
        """The JWE enc of what it writes; empty if it cannot."""
        return self.scheme.enc if self.may_write and self.scheme is not None else ""

    @property
    def reads(self) -> bool:
        return self.state in (KeyState.WRITE, KeyState.READABLE, KeyState.PENDING, KeyState.ARCHIVED)

    @property
    def may_write(self) -> bool:
        """Whether it could be the write key if it had the label."""
        return self.reads and self.token.encrypt and self.scheme is not None

    @property
    def lacks_scheme(self) -> bool:
        """Whether it could write, but its token does no AES-GCM, and no HMAC key that fits is beside it."""
        its = self.token
        sound = its.kind == "aes" and its.bits in AES_BITS and 0 < len(self.key_id) <= MAX_KEY_ID
        return sound and its.encrypt and its.decrypt and self.scheme is None

    @property
    def age(self) -> tuple[int, bytes]:
        """A value that sorts keys by age, oldest first: a key without a time in its id is older than any with one, for
        kmsd did not make it."""
        return self.created_ms, self.cka_id


@dataclass(frozen=True)
class Inventory:
    """The keys of all tokens at one moment, judged. companions: the HMAC keys, by token and CKA_ID.

    public: what else looks like a key, and is never used: public objects, planted or somebody else's.
    """

    keys: tuple[Key, ...]
    write: Key | None
    by_key_id: Mapping[str, Key]
    problems: tuple[Problem, ...]
    companions: Mapping[tuple[str, bytes], Key]
    public: tuple[Key, ...] = ()

    @property
    def planted(self) -> tuple[Key, ...]:
        """The public objects that have a label or an id of a key of ours."""
        return tuple(key for key in self.public if key.state is KeyState.PLANTED)

    def companion(self, key: Key) -> Key | None:
        """Return the HMAC key with the CKA_ID of an AES key, on the same token; or the other way round."""
        if key.token.kind == "aes":
            return self.companions.get((key.place, key.cka_id)) if key.cka_id else None
        if key.token.kind == "hmac" and key.cka_id:
            for other in self.keys:
                if other.token.kind == "aes" and other.place == key.place and other.cka_id == key.cka_id:
                    return other
        return None


def known_made_ms(key: Key) -> int:
    """Return when a key was made, in milliseconds since the epoch, as far as that is known; 0 if it is not.

    The time is that of the id, which kmsd gives to the keys that it makes and to no other. For showing alone: whoever
    imports a key chooses its id.
    """
    return 0 if key.token.local is False else key.created_ms


def newest_first(keys: Iterable[Key]) -> list[Key]:
    """Sort keys by age, the newest first."""
    return sorted(keys, key=lambda key: key.age, reverse=True)


EMPTY: Final = Inventory((), None, {}, (), {})
