"""Keys, and what was done to them."""

from __future__ import annotations

from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.plain import alike, optional, time
from kmsd.client.model.keys import Key, KeyState, KeyTest, KeyType, Timing

_STATES = {
    pb.KEY_STATE_WRITE: KeyState.WRITE,
    pb.KEY_STATE_READABLE: KeyState.READABLE,
    pb.KEY_STATE_PENDING: KeyState.PENDING,
    pb.KEY_STATE_UNUSABLE: KeyState.UNUSABLE,
    pb.KEY_STATE_COMPANION: KeyState.COMPANION,
    pb.KEY_STATE_ARCHIVED: KeyState.ARCHIVED,
    pb.KEY_STATE_SIGNING: KeyState.SIGNING,
    pb.KEY_STATE_PLANTED: KeyState.PLANTED,
}
_TYPES = {
    pb.KEY_TYPE_AES: KeyType.AES,
    pb.KEY_TYPE_HMAC: KeyType.HMAC,
    pb.KEY_TYPE_RSA: KeyType.RSA,
    pb.KEY_TYPE_EC: KeyType.EC,
    pb.KEY_TYPE_OTHER: KeyType.OTHER,
}


def key(key: pb.Key) -> Key:
    """Decode a key."""
    return alike(
        Key,
        key,
        type=_TYPES.get(key.type, KeyType.UNKNOWN),
        state=_STATES.get(key.state, KeyState.UNKNOWN),
        created=time(key.created_unix_ms),
        last_used=time(key.last_used_unix_ms),
        local=optional(key, "local"),
        always_sensitive=optional(key, "always_sensitive"),
        never_extractable=optional(key, "never_extractable"),
    )


def optional_key(message: Message, field: str) -> Key | None:
    """Decode a key that may be absent: then None."""
    found = optional(message, field)
    return None if found is None else key(found)


def key_test(test: pb.TestKeyResponse) -> KeyTest:
    """Decode the timings of a key's test."""
    return KeyTest(
        key=key(test.key),
        rounds=test.rounds,
        encrypt=Timing(test.encrypt_ms_min, test.encrypt_ms_median, test.encrypt_ms_max),
        decrypt=Timing(test.decrypt_ms_min, test.decrypt_ms_median, test.decrypt_ms_max),
    )
