"""Make the messages for keys that the handlers of the admin API share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.keys.key import Key, KeyState, known_made_ms
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import companion_label, role
from kmsd.observe.stats import Stats

_STATES: Final = {
    KeyState.WRITE: pb.KEY_STATE_WRITE,
    KeyState.READABLE: pb.KEY_STATE_READABLE,
    KeyState.PENDING: pb.KEY_STATE_PENDING,
    KeyState.UNUSABLE: pb.KEY_STATE_UNUSABLE,
    KeyState.COMPANION: pb.KEY_STATE_COMPANION,
    KeyState.ARCHIVED: pb.KEY_STATE_ARCHIVED,
    KeyState.SIGNING: pb.KEY_STATE_SIGNING,
    KeyState.PLANTED: pb.KEY_STATE_PLANTED,
}
_TYPES: Final = {
    "aes": pb.KEY_TYPE_AES,
    "hmac": pb.KEY_TYPE_HMAC,
    "rsa": pb.KEY_TYPE_RSA,
    "ec": pb.KEY_TYPE_EC,
    "other": pb.KEY_TYPE_OTHER,
}


@dataclass(frozen=True)
class KeyPresenter:
    """The keys as clients see them. tenant_of: name of the tenant that writes under a label; empty for other labels."""

    keyring: Keyring
    stats: Stats
    tenant_of: Callable[[str], str]

    def key(self, key: Key) -> pb.Key:
        """Return the message for a key."""
        token = key.token
        use = self.stats.key_use(key.key_id)
        return pb.Key(
            label=key.label,
            key_id=key.key_id,
            key_id_sha256=key.key_id_sha256,
            type=_TYPES[token.kind],
            bits=token.bits,
            state=_STATES[key.state],
            unusable_reason=key.reason,
            unusable_hint=key.hint,
            can_encrypt=token.encrypt,
            can_decrypt=token.decrypt,
            can_sign=token.sign,
            can_verify=token.verify,
            sensitive=bool(token.sensitive),
            extractable=bool(token.extractable),
            private=token.private,
            local=token.local,
            always_sensitive=token.always_sensitive,
            never_extractable=token.never_extractable,
            created_unix_ms=known_made_ms(key),
            token_label=self.keyring.hsm(key).label,
            token=key.place,
            encrypts=use.encrypts if token.seals else 0,
            decrypts=use.decrypts if token.seals else 0,
            last_used_unix_ms=use.last_used_unix_ms if token.seals else 0,
            enc=key.enc if key.may_write else "",
            tenant=self.tenant_of(role(key.label.removesuffix(companion_label("")))),
            purpose=token.purpose,
        )

    def optional(self, key: Key | None) -> pb.Key | None:
        """Return the message for a key, or None for none."""
        return self.key(key) if key is not None else None
