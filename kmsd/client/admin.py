"""The admin API as plain calls: dataclasses in and out. Knows the admin protobufs; shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.errors import ClientError, InvalidRequest
from kmsd.client.model import (
    GeneratedKey,
    Key,
    KeyState,
    KeyType,
    Listener,
    Probe,
    Problem,
    ServingState,
    Sessions,
    Slot,
    Status,
    Token,
)
from kmsd.client.wire import Client

_SERVICE = "/kmsd.admin.v1.Admin"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SERVING_STATES = {
    pb.SERVING_STATE_SERVING: ServingState.SERVING,
    pb.SERVING_STATE_DEGRADED: ServingState.DEGRADED,
    pb.SERVING_STATE_DOWN: ServingState.DOWN,
}
_KEY_STATES = {
    pb.KEY_STATE_WRITE: KeyState.WRITE,
    pb.KEY_STATE_READABLE: KeyState.READABLE,
    pb.KEY_STATE_PENDING: KeyState.PENDING,
    pb.KEY_STATE_UNUSABLE: KeyState.UNUSABLE,
    pb.KEY_STATE_COMPANION: KeyState.COMPANION,
}
_KEY_TYPES = {
    pb.KEY_TYPE_AES: KeyType.AES,
    pb.KEY_TYPE_HMAC: KeyType.HMAC,
    pb.KEY_TYPE_OTHER: KeyType.OTHER,
}
_KEY_TYPE_NUMBERS = {KeyType.AES: pb.KEY_TYPE_AES, KeyType.HMAC: pb.KEY_TYPE_HMAC}


class AdminClient(Client):
    """Every method takes `timeout`: seconds for each of its calls, instead of the client's own; all raise
    ClientError. Threads may share one."""

    def get_status(self, *, timeout: float | None = None) -> Status:
        answer = self._wire.call(f"{_SERVICE}/GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse, timeout)
        return _status(answer)

    def list_slots(self, *, timeout: float | None = None) -> tuple[Slot, ...]:
        slots: list[Slot] = []
        for page in self._slot_pages(timeout):
            slots.extend(map(_slot, page.slots))
        return tuple(slots)

    def list_keys(self, *, timeout: float | None = None) -> tuple[Key, ...]:
        keys: list[Key] = []
        for page in self._key_pages(timeout):
            keys.extend(map(_key, page.keys))
        return tuple(keys)

    def generate_key(
        self,
        label: str,
        *,
        type: KeyType = KeyType.AES,  # noqa: A002 - the field's name in the API
        bits: int = 256,
        key_id: str = "",
        if_not_exists: bool = False,
        timeout: float | None = None,
    ) -> GeneratedKey:
        """Makes a key on the token. key_id: text for CKA_ID; empty: kmsd makes one.

        Conflict if the label or key id is taken; with if_not_exists, the key that has the label is answered.
        """
        number = _KEY_TYPE_NUMBERS.get(type)
        if number is None:
            raise InvalidRequest(f"keys of type {type} cannot be made", "make an aes or hmac key", "INVALID_ARGUMENT")
        request = pb.GenerateKeyRequest(
            label=_text("label", label),
            type=number,
            bits=bits,
            key_id=_text("key id", key_id),
            if_not_exists=if_not_exists,
        )
        answer = self._wire.call(f"{_SERVICE}/GenerateKey", request, pb.GenerateKeyResponse, timeout)
        return GeneratedKey(_key(answer.key), answer.created)

    def adopt_key(self, label: str, *, key_id: str = "", timeout: float | None = None) -> Key:
        """Gives a CKA_ID to the key that has this label and none; NotFound, Conflict."""
        request = pb.AdoptKeyRequest(label=_text("label", label), key_id=_text("key id", key_id))
        answer = self._wire.call(f"{_SERVICE}/AdoptKey", request, pb.AdoptKeyResponse, timeout)
        return _key(answer.key)

    def _slot_pages(self, timeout: float | None) -> Iterator[pb.ListSlotsResponse]:
        token = ""
        while True:
            request = pb.ListSlotsRequest(page_token=token)
            page = self._wire.call(f"{_SERVICE}/ListSlots", request, pb.ListSlotsResponse, timeout)
            yield page
            if not (token := _next(token, page.next_page_token)):
                return

    def _key_pages(self, timeout: float | None) -> Iterator[pb.ListKeysResponse]:
        token = ""
        while True:
            request = pb.ListKeysRequest(page_token=token)
            page = self._wire.call(f"{_SERVICE}/ListKeys", request, pb.ListKeysResponse, timeout)
            yield page
            if not (token := _next(token, page.next_page_token)):
                return


def _next(token: str, following: str) -> str:
    if following and following == token:
        raise ClientError("kmsd answered the same page twice", "this is a bug in kmsd", "INTERNAL")
    return following


def _text(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} {text!r} is not UTF-8", "name it in UTF-8", "INVALID_ARGUMENT") from None
    return text


def _time(unix_ms: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=unix_ms) if unix_ms > 0 else None
    except OverflowError:
        return None  # an identity that only looks like a version 7 UUID may carry any number


def _key(key: pb.Key) -> Key:
    return Key(
        label=key.label,
        key_id=key.key_id,
        key_id_sha256=key.key_id_sha256,
        type=_KEY_TYPES.get(key.type, KeyType.UNKNOWN),
        bits=key.bits,
        state=_KEY_STATES.get(key.state, KeyState.UNKNOWN),
        unusable_reason=key.unusable_reason,
        unusable_hint=key.unusable_hint,
        can_encrypt=key.can_encrypt,
        can_decrypt=key.can_decrypt,
        can_sign=key.can_sign,
        can_verify=key.can_verify,
        sensitive=key.sensitive,
        extractable=key.extractable,
        private=key.private,
        created=_time(key.created_unix_ms),
        token_label=key.token_label,
    )


def _slot(slot: pb.ListSlotsResponse.Slot) -> Slot:
    return Slot(
        slot_id=slot.slot_id,
        description=slot.description,
        manufacturer=slot.manufacturer,
        token_present=slot.token_present,
        token_label=slot.token_label,
        token_serial=slot.token_serial,
        token_model=slot.token_model,
        token_manufacturer=slot.token_manufacturer,
        flags=tuple(slot.flags),
        pin_warnings=tuple(slot.pin_warnings),
        in_use=slot.in_use,
    )


def _status(status: pb.GetStatusResponse) -> Status:
    token, sessions = status.token, status.sessions
    return Status(
        version=status.version,
        state=_SERVING_STATES.get(status.state, ServingState.UNKNOWN),
        healthz=status.healthz,
        hint=status.hint,
        started=_time(status.started_unix_ms),
        write_label=status.write_label,
        write_key=_key(status.write_key) if status.HasField("write_key") else None,
        token=Token(
            module=token.module,
            label=token.label,
            serial=token.serial,
            model=token.model,
            manufacturer=token.manufacturer,
            slot_id=token.slot_id,
            up=token.up,
        ),
        sessions=Sessions(
            open=sessions.open,
            configured=sessions.configured,
            busy=sessions.busy,
            stuck=sessions.stuck,
            queued=sessions.queued,
        ),
        probe=Probe(_time(status.probe.last_success_unix_ms), status.probe.round_trip_ms),
        listeners=tuple(Listener(each.socket, tuple(each.apis)) for each in status.listeners),
        problems=tuple(Problem(each.message, each.hint, each.fatal) for each in status.problems),
        keys=status.keys,
        write_format=status.write_format,
    )
