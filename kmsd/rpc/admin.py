"""The admin API, kmsd.admin.v1: protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from kmsd import __version__
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.errors import InvalidRequest
from kmsd.hsm.connection import Hsm
from kmsd.hsm.module import SlotView
from kmsd.keyring import Keyring
from kmsd.observe import logs
from kmsd.observe.health import Health
from kmsd.picture import Key, Problem, State
from kmsd.rpc.call import Call, Method, Table, parse
from kmsd.service import KmsService

log = logs.get_logger("kmsd.admin")

API: Final = "admin"
SERVICE: Final = "kmsd.admin.v1.Admin"
_PAGE: Final = 500
_PAGE_MOST: Final = 1000
T = TypeVar("T")

_STATES: Final = {
    State.WRITE: pb.KEY_STATE_WRITE,
    State.READABLE: pb.KEY_STATE_READABLE,
    State.PENDING: pb.KEY_STATE_PENDING,
    State.UNUSABLE: pb.KEY_STATE_UNUSABLE,
    State.COMPANION: pb.KEY_STATE_COMPANION,
}
_TYPES: Final = {"aes": pb.KEY_TYPE_AES, "hmac": pb.KEY_TYPE_HMAC, "other": pb.KEY_TYPE_OTHER}


@dataclass(frozen=True)
class Admin:
    """What the admin API speaks of. started: Unix time in seconds. problems: those of the whole daemon."""

    hsm: Hsm
    keyring: Keyring
    health: Health
    service: KmsService
    started: float
    write_format: str
    listeners: Callable[[], Sequence[tuple[str, Sequence[str]]]]
    problems: Callable[[], list[Problem]]

    def table(self) -> Table:
        methods = {
            "GetStatus": self.get_status,
            "ListSlots": self.list_slots,
            "ListKeys": self.list_keys,
            "GenerateKey": self.generate_key,
            "AdoptKey": self.adopt_key,
        }
        return {f"/{SERVICE}/{name}": Method(API, name, handler) for name, handler in methods.items()}

    async def get_status(self, call: Call, body: bytes) -> bytes:
        parse(pb.GetStatusRequest, body)
        health = await self.health.fresh(0.2, 1.0)
        write = self.keyring.picture.write
        problems = self.problems()
        error = health.error or (None if write and self.hsm.connected else self.keyring.why_none())
        state = pb.SERVING_STATE_SERVING
        if error is not None:
            state = pb.SERVING_STATE_DOWN
        elif problems:
            state = pb.SERVING_STATE_DEGRADED
        pool = self.hsm.pool_view()
        return pb.GetStatusResponse(
            version=__version__,
            state=state,
            healthz=error.message if error else "ok",
            hint=error.hint if error else "",
            started_unix_ms=int(self.started * 1000),
            write_label=self.keyring.write_label,
            write_key=self._key(write) if write else None,
            token=self._token(),
            sessions=pb.GetStatusResponse.Sessions(
                open=pool.open,
                configured=pool.configured,
                busy=pool.busy,
                stuck=pool.stuck,
                queued=pool.queued,
            ),
            probe=pb.GetStatusResponse.HealthProbe(
                last_success_unix_ms=int(health.last_success * 1000), round_trip_ms=health.round_trip * 1000
            ),
            listeners=[pb.GetStatusResponse.Listener(socket=socket, apis=apis) for socket, apis in self.listeners()],
            problems=[pb.Problem(message=p.message, hint=p.hint, fatal=p.fatal) for p in problems],
            keys=len(self.keyring.picture.keys),
            write_format=self.write_format,
        ).SerializeToString()

    async def list_slots(self, call: Call, body: bytes) -> bytes:
        request = parse(pb.ListSlotsRequest, body)
        slots, token = _page(await self.hsm.slots(), request.page_size, request.page_token)
        return pb.ListSlotsResponse(
            slots=[self._slot(slot) for slot in slots], next_page_token=token
        ).SerializeToString()

    async def list_keys(self, call: Call, body: bytes) -> bytes:
        request = parse(pb.ListKeysRequest, body)
        if not request.page_token:
            await self.keyring.look()
        keys, token = _page(self.keyring.picture.keys, request.page_size, request.page_token)
        return pb.ListKeysResponse(keys=[self._key(key) for key in keys], next_page_token=token).SerializeToString()

    async def generate_key(self, call: Call, body: bytes) -> bytes:
        request = parse(pb.GenerateKeyRequest, body)
        match request.type:
            case pb.KEY_TYPE_AES | pb.KEY_TYPE_UNSPECIFIED:
                key, created = await self.keyring.generate(
                    request.label, "aes", request.bits, request.key_id, if_not_exists=request.if_not_exists
                )
            case pb.KEY_TYPE_HMAC:
                key, created = await self.keyring.generate(
                    request.label, "hmac", request.bits, request.key_id, if_not_exists=request.if_not_exists
                )
            case _:
                raise InvalidRequest("kmsd makes AES and HMAC keys only", "choose --type aes or --type hmac")
        call.key_id_sha256 = key.key_id_sha256
        if created:
            log.info("key generated", label=key.label, key_id_sha256=key.key_id_sha256, bits=key.token.bits)
            await self.health.check()
        return pb.GenerateKeyResponse(key=self._key(key), created=created).SerializeToString()

    async def adopt_key(self, call: Call, body: bytes) -> bytes:
        request = parse(pb.AdoptKeyRequest, body)
        key = await self.keyring.adopt(request.label, request.key_id)
        call.key_id_sha256 = key.key_id_sha256
        log.info("key adopted", label=key.label, key_id_sha256=key.key_id_sha256)
        await self.health.check()
        return pb.AdoptKeyResponse(key=self._key(key)).SerializeToString()

    def _token(self) -> pb.GetStatusResponse.Token:
        connected = self.hsm.connected
        if connected is None:
            return pb.GetStatusResponse.Token(
                module=self.hsm.address.module,
                label=self.hsm.address.label,
                slot_id=self.hsm.address.slot or 0,
            )
        token = connected.token
        return pb.GetStatusResponse.Token(
            module=connected.module.path,
            label=token.label,
            serial=token.serial,
            model=token.model,
            manufacturer=token.manufacturer,
            slot_id=connected.slot_id,
            up=True,
        )

    def _slot(self, slot: SlotView) -> pb.ListSlotsResponse.Slot:
        token = slot.token
        connected = self.hsm.connected
        shown = pb.ListSlotsResponse.Slot(
            slot_id=slot.slot_id,
            description=slot.description,
            manufacturer=slot.manufacturer,
            token_present=token is not None,
            in_use=connected is not None and connected.slot_id == slot.slot_id,
        )
        if token is not None:
            shown.token_label = token.label
            shown.token_serial = token.serial
            shown.token_model = token.model
            shown.token_manufacturer = token.manufacturer
            shown.flags.extend(sorted(flag.lower().replace("_", " ") for flag in token.flags))
            if "TOKEN_INITIALIZED" in token.flags:
                shown.pin_warnings.extend(token.pin_warnings)
        return shown

    def _key(self, key: Key) -> pb.Key:
        token = key.token
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
            sensitive=token.sensitive,
            extractable=token.extractable,
            private=token.private,
            created_unix_ms=key.created_ms,
            token_label=self.hsm.connected.token.label if self.hsm.connected else self.hsm.address.label,
        )


def _page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """One page, and the token of the next ("" at the end). The token is the place to go on from."""
    if token and not (token.isascii() and token.isdigit() and len(token) <= 9):
        raise InvalidRequest("the page token is none of this server's", "begin again without one")
    begin = int(token or "0")
    end = begin + min(size or _PAGE, _PAGE_MOST)
    return items[begin:end], str(end) if end < len(items) else ""
