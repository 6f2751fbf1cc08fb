"""A real gRPC server on real Unix sockets whose answers are written down here, for the golden files.

Holds no keys: its "ciphertext" is the plaintext in base64 under a header that names a key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2

WRITE_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OLD_ID = "0x00ff10"
CREATED = 1687956465814
"""What a version 7 UUID as WRITE_ID carries: 2023-06-28T12:47:45.814Z."""


@dataclass(frozen=True)
class Failure:
    code: grpc.StatusCode
    message: str
    hint: str = ""
    retryable: bool = False


def write_key() -> pb.Key:
    return _key("k8s-kek", WRITE_ID, pb.KEY_STATE_WRITE, created_unix_ms=CREATED)


def keys() -> list[pb.Key]:
    """One of each state, with labels that a terminal should not meet."""
    return [
        write_key(),
        _key("k8s-kek@2022-01-01T00:00:00Z", OLD_ID, pb.KEY_STATE_READABLE, bits=128),
        _key("鍵-ключ", "id-wide", pb.KEY_STATE_PENDING),
        _key(
            "evil\x1b[2J\u202elabel\n",
            "",
            pb.KEY_STATE_UNUSABLE,
            type=pb.KEY_TYPE_OTHER,
            bits=0,
            can_encrypt=False,
            can_decrypt=False,
            sensitive=False,
            extractable=True,
            unusable_reason="it has no CKA_ID",
            unusable_hint="give it one: kmsctl keys adopt LABEL",
        ),
    ]


def _key(label: str, key_id: str, state: pb.KeyState, **fields: Any) -> pb.Key:
    defaults: dict[str, Any] = {
        "type": pb.KEY_TYPE_AES,
        "bits": 256,
        "can_encrypt": True,
        "can_decrypt": True,
        "sensitive": True,
        "private": True,
        "token_label": "prod",
    }
    digest = hashlib.sha256(key_id.encode()).hexdigest() if key_id else ""
    return pb.Key(label=label, key_id=key_id, key_id_sha256=digest, state=state, **(defaults | fields))


def serving() -> pb.GetStatusResponse:
    return pb.GetStatusResponse(
        version="0.1.0",
        state=pb.SERVING_STATE_SERVING,
        healthz="ok",
        started_unix_ms=CREATED,
        write_label="k8s-kek",
        write_key=write_key(),
        token=pb.GetStatusResponse.Token(
            module="/usr/lib/softhsm/libsofthsm2.so",
            label="prod",
            serial="0011223344556677",
            model="SoftHSM v2",
            manufacturer="SoftHSM project",
            slot_id=1234567,
            up=True,
        ),
        sessions=pb.GetStatusResponse.Sessions(open=4, configured=4, busy=1),
        probe=pb.GetStatusResponse.HealthProbe(last_success_unix_ms=CREATED + 1000, round_trip_ms=0.5),
        listeners=[
            pb.GetStatusResponse.Listener(socket="/run/kmsd/kms.sock", apis=["v2", "v1beta1"]),
            pb.GetStatusResponse.Listener(socket="/run/kmsd-admin/admin.sock", apis=["admin"]),
        ],
        keys=3,
        write_format="native",
    )


def degraded() -> pb.GetStatusResponse:
    status = serving()
    status.state = pb.SERVING_STATE_DEGRADED
    status.problems.append(
        pb.Problem(message="two keys hold the label k8s-kek", hint="kmsctl keys list shows both; relabel one")
    )
    return status


def down() -> pb.GetStatusResponse:
    """Started without any key: no write key, and no round trip yet."""
    status = serving()
    status.state = pb.SERVING_STATE_DOWN
    status.healthz = "no key with the label k8s-kek"
    status.hint = "make one: kmsctl keygen k8s-kek"
    status.keys = 0
    status.ClearField("write_key")
    status.ClearField("probe")
    status.problems.append(
        pb.Problem(message="no key with the label k8s-kek", hint="make one: kmsctl keygen k8s-kek", fatal=True)
    )
    return status


def slots() -> list[pb.ListSlotsResponse.Slot]:
    slot = pb.ListSlotsResponse.Slot
    return [
        slot(
            slot_id=1234567,
            description="SoftHSM slot ID 0x12d687",
            manufacturer="SoftHSM project",
            token_present=True,
            token_label="prod",
            token_serial="0011223344556677",
            token_model="SoftHSM v2",
            token_manufacturer="SoftHSM project",
            flags=["login required", "rng", "token initialized"],
            pin_warnings=["one wrong PIN more locks the token"],
            in_use=True,
        ),
        slot(slot_id=8, description="empty reader", manufacturer="Acme"),
    ]


@dataclass
class Canned:
    """What the server will answer, and the requests it got. Tests write to the first and read the second."""

    directory: Path
    status: pb.GetStatusResponse = field(default_factory=serving)
    keys: list[pb.Key] = field(default_factory=keys)
    slots: list[pb.ListSlotsResponse.Slot] = field(default_factory=slots)
    page: int = 2
    """Keys and slots per page."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """By method name."""
    requests: list[Message] = field(default_factory=list)

    @property
    def admin(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def kms(self) -> Path:
        return self.directory / "kms.sock"

    def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        return self.status

    def list_keys(self, request: pb.ListKeysRequest) -> pb.ListKeysResponse:
        first = int(request.page_token or 0)
        last = first + self.page
        following = str(last) if last < len(self.keys) else ""
        return pb.ListKeysResponse(keys=self.keys[first:last], next_page_token=following)

    def list_slots(self, request: pb.ListSlotsRequest) -> pb.ListSlotsResponse:
        first = int(request.page_token or 0)
        last = first + self.page
        following = str(last) if last < len(self.slots) else ""
        return pb.ListSlotsResponse(slots=self.slots[first:last], next_page_token=following)

    def generate_key(self, request: pb.GenerateKeyRequest) -> pb.GenerateKeyResponse:
        held = next((key for key in self.keys if key.label == request.label), None)
        if held is not None:
            if request.if_not_exists:
                return pb.GenerateKeyResponse(key=held, created=False)
            raise _FailedError(
                Failure(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"the label {request.label} is taken",
                    "choose another label, or say --if-not-exists",
                )
            )
        made = _key(
            request.label,
            request.key_id or WRITE_ID,
            pb.KEY_STATE_WRITE,
            type=request.type,
            bits=request.bits,
            created_unix_ms=CREATED,
        )
        self.keys.append(made)
        return pb.GenerateKeyResponse(key=made, created=True)

    def adopt_key(self, request: pb.AdoptKeyRequest) -> pb.AdoptKeyResponse:
        for key in self.keys:
            if key.label == request.label:
                return pb.AdoptKeyResponse(key=_key(key.label, request.key_id or OLD_ID, pb.KEY_STATE_READABLE))
        raise _FailedError(
            Failure(
                grpc.StatusCode.NOT_FOUND,
                f"no key has the label {request.label}",
                "kmsctl keys list shows all",
            )
        )

    def kms_status(self, request: v2.StatusRequest) -> v2.StatusResponse:
        return v2.StatusResponse(version="v2", healthz=self.status.healthz, key_id=WRITE_ID)

    def encrypt(self, request: v2.EncryptRequest) -> v2.EncryptResponse:
        return v2.EncryptResponse(
            ciphertext=seal(request.plaintext), key_id=WRITE_ID, annotations={"kmsd.example.com": b"\x00\xff"}
        )

    def decrypt(self, request: v2.DecryptRequest) -> v2.DecryptResponse:
        return v2.DecryptResponse(plaintext=unseal(request.ciphertext))

    def version_v1beta1(self, request: v1beta1.VersionRequest) -> v1beta1.VersionResponse:
        return v1beta1.VersionResponse(version="v1beta1", runtime_name="kmsd", runtime_version="0.1.0")

    def encrypt_v1beta1(self, request: v1beta1.EncryptRequest) -> v1beta1.EncryptResponse:
        return v1beta1.EncryptResponse(cipher=seal(request.plain))

    def decrypt_v1beta1(self, request: v1beta1.DecryptRequest) -> v1beta1.DecryptResponse:
        return v1beta1.DecryptResponse(plain=unseal(request.cipher))


def seal(plaintext: bytes, key_id: str = WRITE_ID) -> bytes:
    header = json.dumps({"alg": "dir", "kid": key_id, "enc": "A256GCM"}).encode()
    parts = (header, b"", b"iv", plaintext, b"tag")
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def unseal(ciphertext: bytes) -> bytes:
    parts = ciphertext.split(b".")
    if len(parts) != 5:
        raise _FailedError(Failure(grpc.StatusCode.INVALID_ARGUMENT, "the ciphertext is no compact JWE"))
    return base64.urlsafe_b64decode(parts[3] + b"=" * (-len(parts[3]) % 4))


class _FailedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def serve(canned: Canned) -> Iterator[Canned]:
    """The admin API on one socket and both KMS APIs on another, until the block ends."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(
        (
            _service(
                canned,
                "kmsd.admin.v1.Admin",
                GetStatus=(canned.get_status, pb.GetStatusRequest),
                ListSlots=(canned.list_slots, pb.ListSlotsRequest),
                ListKeys=(canned.list_keys, pb.ListKeysRequest),
                GenerateKey=(canned.generate_key, pb.GenerateKeyRequest),
                AdoptKey=(canned.adopt_key, pb.AdoptKeyRequest),
            ),
            _service(
                canned,
                "v2.KeyManagementService",
                Status=(canned.kms_status, v2.StatusRequest),
                Encrypt=(canned.encrypt, v2.EncryptRequest),
                Decrypt=(canned.decrypt, v2.DecryptRequest),
            ),
            _service(
                canned,
                "v1beta1.KeyManagementService",
                Version=(canned.version_v1beta1, v1beta1.VersionRequest),
                Encrypt=(canned.encrypt_v1beta1, v1beta1.EncryptRequest),
                Decrypt=(canned.decrypt_v1beta1, v1beta1.DecryptRequest),
            ),
        )
    )
    server.add_insecure_port(f"unix:{canned.admin}")
    server.add_insecure_port(f"unix:{canned.kms}")
    server.start()
    try:
        yield canned
    finally:
        server.stop(grace=None).wait()


def _service(
    canned: Canned, name: str, **methods: tuple[Callable[[Any], Message], type[Message]]
) -> grpc.GenericRpcHandler:
    def handler(method: str, answer: Callable[[Any], Message]) -> Callable[[Any, Any], Message]:
        def handle(request: Any, context: Any) -> Message:
            canned.requests.append(request)
            try:
                failure = canned.failures.get(method)
                return _abort(context, failure) if failure else answer(request)
            except _FailedError as failed:
                return _abort(context, failed.failure)

        return handle

    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                handler(method, answer),
                request_deserializer=request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for method, (answer, request) in methods.items()
        },
    )


def _abort(context: Any, failure: Failure) -> Message:
    metadata: list[tuple[str, str | bytes]] = []
    if failure.hint:
        metadata.append(("kmsd-hint-bin", failure.hint.encode()))
    if failure.retryable:
        metadata.append(("kmsd-retryable", "true"))
    context.set_trailing_metadata(tuple(metadata))
    context.abort(failure.code, failure.message)
    raise AssertionError("abort raises")
