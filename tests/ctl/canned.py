"""A real gRPC server on real Unix sockets whose answers are written down in `answers`, for the golden files.

Holds no keys: its "ciphertext" is the plaintext in base64 under a header that names a key.
"""

from __future__ import annotations

import base64
import json
import queue
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
from tests.ctl import answers
from tests.ctl.answers import CREATED, OLD_ID, RETIRED_ID, WRITE_ID
from tests.ctl.canned_ca import CannedCa
from tests.ctl.canned_enrol import CannedEnrolment
from tests.ctl.canned_jwt import CannedJwt


@dataclass(frozen=True)
class Failure:
    code: grpc.StatusCode
    message: str
    hint: str = ""
    retryable: bool = False


@dataclass
class Canned(CannedEnrolment, CannedCa, CannedJwt):
    """What the server will answer, and the requests it got. Tests write to the first and read the second."""

    directory: Path
    status: pb.GetStatusResponse = field(default_factory=answers.serving)
    keys: list[pb.Key] = field(default_factory=answers.keys)
    slots: list[pb.ListSlotsResponse.Slot] = field(default_factory=answers.slots)
    peers: list[pb.ListPeersResponse.Peer] = field(default_factory=answers.peers)
    mechanisms: list[pb.ListMechanismsResponse.Mechanism] = field(default_factory=answers.mechanisms)
    diagnosis: pb.DiagnoseResponse = field(default_factory=answers.diagnosis)
    config: pb.GetConfigResponse = field(default_factory=answers.config)
    frame: pb.WatchStatsResponse = field(default_factory=answers.stats_frame)
    calls: list[pb.WatchRequestsResponse.Request] = field(default_factory=answers.calls)
    audit: list[pb.WatchAuditResponse.Record] = field(default_factory=answers.audit)
    verdict: pb.VerifyAuditResponse = field(default_factory=answers.verdict)
    tampering: list[pb.AcknowledgeAuditResponse.Seen] = field(default_factory=answers.tampering)
    inspection: pb.InspectCiphertextResponse = field(default_factory=answers.inspection)
    log_level: str = "info"
    unlocked: bool = False
    busy: set[str] = field(default_factory=lambda: {"k8s-kek", "k8s-kek@2022-01-01T00:00:00Z"})
    """Labels of keys in use: what would destroy, retire or relabel them wants the label once more."""
    page: int = 2
    """Keys, slots and mechanisms per page."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """By method name."""
    missing: set[str] = field(default_factory=set)
    """Methods that this server does not have, as an older kmsd. To be set before it is served."""
    requests: list[Message] = field(default_factory=list)
    followers: dict[str, list[queue.Queue[Message | None]]] = field(default_factory=dict)
    """By method: the streams that wait for what `feed` gives them."""

    @property
    def admin(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def kms(self) -> Path:
        return self.directory / "kms.sock"

    def feed(self, method: str, message: Message | None) -> None:
        """One more message for every stream of the method that follows; None: its end."""
        for each in list(self.followers.get(method, ())):
            each.put(message)

    def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        return self.status

    def get_config(self, request: pb.GetConfigRequest) -> pb.GetConfigResponse:
        return self.config

    def set_log_level(self, request: pb.SetLogLevelRequest) -> pb.SetLogLevelResponse:
        if request.level not in ("", "debug", "info", "warning", "error"):
            raise _failed("INVALID_ARGUMENT", f"there is no log level {request.level}", "debug, info, warning, error")
        previous = self.log_level
        if not request.dry_run:
            self.log_level = request.level or "info"
        return pb.SetLogLevelResponse(level=self.log_level, previous=previous)

    def list_peers(self, request: pb.ListPeersRequest) -> pb.ListPeersResponse:
        found = [each for each in self.peers if request.tenant in ("", each.tenant)]
        peers, following = self._page(found, request.page_token)
        return pb.ListPeersResponse(peers=peers, next_page_token=following)

    def list_slots(self, request: pb.ListSlotsRequest) -> pb.ListSlotsResponse:
        slots, following = self._page(self.slots, request.page_token)
        return pb.ListSlotsResponse(slots=slots, next_page_token=following)

    def list_mechanisms(self, request: pb.ListMechanismsRequest) -> pb.ListMechanismsResponse:
        if request.token not in ("", "main"):
            raise _failed("NOT_FOUND", f"no token is named {request.token}", "`kmsctl status` shows their names")
        found, following = self._page(self.mechanisms, request.page_token)
        return pb.ListMechanismsResponse(mechanisms=found, next_page_token=following, token_label="prod")

    def unlock_token(self, request: pb.UnlockTokenRequest) -> pb.UnlockTokenResponse:
        if request.token not in ("", "main"):
            raise _failed("NOT_FOUND", f"no token is named {request.token}", "`kmsctl status` shows their names")
        return pb.UnlockTokenResponse(token="main", token_label="prod", logged_in=not self.unlocked)

    def diagnose(self, request: pb.DiagnoseRequest) -> pb.DiagnoseResponse:
        if request.token not in ("", "main"):
            raise _failed("NOT_FOUND", f"no token is named {request.token}", "`kmsctl status` shows their names")
        return self.diagnosis

    def list_keys(self, request: pb.ListKeysRequest) -> pb.ListKeysResponse:
        keys, following = self._page(self.keys, request.page_token)
        return pb.ListKeysResponse(keys=keys, next_page_token=following)

    def _page(self, everything: list[Any], page_token: str) -> tuple[list[Any], str]:
        first = int(page_token or 0)
        last = first + self.page
        return everything[first:last], str(last) if last < len(everything) else ""

    def find(self, name: str) -> pb.Key:
        """As the requests name a key: by id, label, or the first digits of the id's hash."""
        usable = [key for key in self.keys if key.type != pb.KEY_TYPE_HMAC]
        for key in usable:
            if name in (key.key_id, key.label) or (
                name.startswith("sha256:") and len(name) >= 15 and key.key_id_sha256.startswith(name[7:])
            ):
                return key
        raise _failed("NOT_FOUND", f"no key has the label or key id {name}", "`kmsctl keys list` shows all")

    def companion(self, key: pb.Key) -> pb.Key | None:
        beside = (each for each in self.keys if each.type == pb.KEY_TYPE_HMAC and each.key_id == key.key_id != "")
        return next(beside, None)

    def get_key(self, request: pb.GetKeyRequest) -> pb.GetKeyResponse:
        key = self.find(request.key)
        return pb.GetKeyResponse(key=key, companion=self.companion(key))

    def generate_key(self, request: pb.GenerateKeyRequest) -> pb.GenerateKeyResponse:
        held = next((key for key in self.keys if key.label == request.label), None)
        if held is not None:
            if request.if_not_exists:
                return pb.GenerateKeyResponse(key=held, created=False, companion=self.companion(held))
            raise _failed(
                "ALREADY_EXISTS", f"the label {request.label} is taken", "choose another label, or say --if-not-exists"
            )
        pair = request.type == pb.KEY_TYPE_PAIR
        made = answers.key(
            request.label,
            request.key_id or WRITE_ID,
            pb.KEY_STATE_WRITE,
            type=pb.KEY_TYPE_AES if pair else request.type or pb.KEY_TYPE_AES,
            bits=request.bits or 256,
            created_unix_ms=CREATED,
            token=request.token or "main",
        )
        self.keys.append(made)
        companion = None
        if pair:
            companion = answers.key(
                f"{request.label}.hmac", made.key_id, pb.KEY_STATE_COMPANION, type=pb.KEY_TYPE_HMAC, token=made.token
            )
        return pb.GenerateKeyResponse(key=made, created=True, companion=companion)

    def adopt_key(self, request: pb.AdoptKeyRequest) -> pb.AdoptKeyResponse:
        for key in self.keys:
            if key.label == request.label:
                return pb.AdoptKeyResponse(key=answers.key(key.label, request.key_id or OLD_ID, pb.KEY_STATE_READABLE))
        raise _failed("NOT_FOUND", f"no key has the label {request.label}", "kmsctl keys list shows all")

    def relabel_key(self, request: pb.RelabelKeyRequest) -> pb.RelabelKeyResponse:
        key = self.find(request.key)
        if any(each.label == request.label for each in self.keys):
            raise _failed("ALREADY_EXISTS", f"the label {request.label} is taken", "choose another label")
        self._refuse_if_busy(key, request.confirm_label, "encrypts")
        changed = pb.Key()
        changed.CopyFrom(key)
        changed.label = request.label
        if not request.dry_run:
            self.keys[self.keys.index(key)] = changed
        return pb.RelabelKeyResponse(key=changed, previous_label=key.label)

    def destroy_key(self, request: pb.DestroyKeyRequest) -> pb.DestroyKeyResponse:
        key = self.find(request.key)
        companion = self.companion(key)
        self._refuse_if_busy(key, request.confirm_label, "is in use: it decrypted 3 s ago")
        if not request.dry_run:
            self.keys.remove(key)
        return pb.DestroyKeyResponse(key=key, companion=companion, destroyed=not request.dry_run)

    def _refuse_if_busy(self, key: pb.Key, confirmed: str, why: str) -> None:
        if confirmed not in ("", key.label):
            raise _failed("INVALID_ARGUMENT", f"{confirmed} is not the label of the key {key.label}", "give its label")
        if key.label in self.busy and not confirmed:
            raise _failed(
                "FAILED_PRECONDITION",
                f"the key {key.label} {why}",
                f"wait; to do it in spite of that, give the label once more: --confirm {key.label}",
            )

    def test_key(self, request: pb.TestKeyRequest) -> pb.TestKeyResponse:
        return pb.TestKeyResponse(
            key=self.find(request.key),
            rounds=request.rounds or 10,
            encrypt_ms_min=0.25,
            encrypt_ms_median=0.5,
            encrypt_ms_max=4.125,
            decrypt_ms_min=0.125,
            decrypt_ms_median=0.375,
            decrypt_ms_max=2,
        )

    def rotate_key(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        new = None if request.dry_run else answers.key("k8s-kek", RETIRED_ID, pb.KEY_STATE_WRITE)
        return pb.RotateKeyResponse(
            steps=self._steps(request.dry_run), old_key=self.find(WRITE_ID), new_key=new, rotated=not request.dry_run
        )

    def _steps(self, dry_run: bool) -> list[pb.RotationStep]:
        steps = answers.revert_steps()
        for each in steps:
            each.done = not dry_run
        return steps

    def retire_key(self, request: pb.RetireKeyRequest) -> pb.RetireKeyResponse:
        key = self.find(request.key)
        stored = sum(each.objects for each in request.scan.uses if each.key_id in (key.key_id, key.label))
        if stored and not request.confirm_label:
            raise _failed("FAILED_PRECONDITION", f"{stored} stored objects need the key {key.label}", "rewrite them")
        self._refuse_if_busy(key, request.confirm_label, "is in use: it decrypted 3 s ago")
        changed = pb.Key()
        changed.CopyFrom(key)
        changed.label = f"{key.label}.retired"
        changed.state = pb.KEY_STATE_ARCHIVED
        return pb.RetireKeyResponse(key=changed, previous_label=key.label)

    def revert_key(self, request: pb.RevertKeyRequest) -> pb.RevertKeyResponse:
        old = self.find(WRITE_ID)
        previous = self.find(OLD_ID)
        if request.from_key_id not in ("", old.key_id):
            return pb.RevertKeyResponse(old_key=old, new_key=old, previous_key=previous)
        new = None if request.dry_run else answers.key("k8s-kek", RETIRED_ID, pb.KEY_STATE_WRITE, token="old")
        return pb.RevertKeyResponse(
            steps=self._steps(request.dry_run),
            old_key=old,
            new_key=new,
            previous_key=previous,
            reverted=not request.dry_run,
            not_undone=[f"what was written with {old.key_id} needs it until it is written again"],
        )

    def inspect_ciphertext(self, request: pb.InspectCiphertextRequest) -> pb.InspectCiphertextResponse:
        return self.inspection

    def try_ciphertext(self, request: pb.TryCiphertextRequest) -> pb.TryCiphertextResponse:
        return pb.TryCiphertextResponse(key=self.keys[0])

    def verify_audit(self, request: pb.VerifyAuditRequest) -> pb.VerifyAuditResponse:
        return self.verdict

    def acknowledge_audit(self, request: pb.AcknowledgeAuditRequest) -> pb.AcknowledgeAuditResponse:
        return pb.AcknowledgeAuditResponse(
            seen=self.tampering, acknowledged=bool(self.tampering) and not request.dry_run
        )

    def watch_stats(self, request: pb.WatchStatsRequest) -> Message:
        return self.frame

    def get_metrics(self, request: pb.GetMetricsRequest) -> Message:
        return pb.GetMetricsResponse(text=b"# HELP kmsd_hsm_up Whether.\n# TYPE kmsd_hsm_up gauge\nkmsd_hsm_up 1.0\n")

    def watch_requests(self, request: pb.WatchRequestsRequest) -> Message:
        backlog = self.calls[-request.backlog :] if request.backlog else []
        return pb.WatchRequestsResponse(requests=backlog)

    def watch_audit(self, request: pb.WatchAuditRequest) -> Message:
        backlog = self.audit[-request.backlog :] if request.backlog else []
        return pb.WatchAuditResponse(records=backlog)

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
        raise _failed("INVALID_ARGUMENT", "the ciphertext is no compact JWE")
    return base64.urlsafe_b64decode(parts[3] + b"=" * (-len(parts[3]) % 4))


class _FailedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _failed(code: str, message: str, hint: str = "") -> _FailedError:
    return _FailedError(Failure(grpc.StatusCode[code], message, hint))


_ADMIN = [method.name for method in pb.DESCRIPTOR.services_by_name["Admin"].methods]


@contextmanager
def serve(canned: Canned) -> Iterator[Canned]:
    """The admin API on one socket and both KMS APIs on another, until the block ends."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    admin = {
        method: (getattr(canned, _snake(method)), getattr(pb, f"{method}Request"))
        for method in _ADMIN
        if method not in canned.missing and hasattr(canned, _snake(method))
    }
    server.add_generic_rpc_handlers(
        (
            _service(canned, "kmsd.admin.v1.Admin", **admin),
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
        stopped = server.stop(grace=None)
        for method in list(canned.followers):
            canned.feed(method, None)
        stopped.wait()


def _snake(method: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in method).lstrip("_")


def _service(
    canned: Canned, name: str, **methods: tuple[Callable[[Any], Message], type[Message]]
) -> grpc.GenericRpcHandler:
    def one(method: str, answer: Callable[[Any], Message]) -> Callable[[Any, Any], Message]:
        def handle(request: Any, context: Any) -> Message:
            canned.requests.append(request)
            try:
                failure = canned.failures.get(method)
                return _abort(context, failure) if failure else answer(request)
            except _FailedError as failed:
                return _abort(context, failed.failure)

        return handle

    def many(method: str, answer: Callable[[Any], Message]) -> Callable[[Any, Any], Iterator[Message]]:
        first = one(method, answer)

        def handle(request: Any, context: Any) -> Iterator[Message]:
            more: queue.Queue[Message | None] = queue.Queue()
            canned.followers.setdefault(method, []).append(more)
            if not context.add_callback(lambda: more.put(None)):
                return
            yield first(request, context)
            if method.startswith("Watch") and getattr(request, "follow", True):
                while (message := more.get()) is not None:
                    yield message
            canned.followers[method].remove(more)

        return handle

    def handler(method: str, answer: Callable[[Any], Message], request: type[Message]) -> Any:
        streams = method.startswith("Watch") or method == "BackUpStore"
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return make(
            many(method, answer) if streams else one(method, answer),
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    return grpc.method_handlers_generic_handler(
        name, {method: handler(method, answer, request) for method, (answer, request) in methods.items()}
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
