"""The admin API as plain calls: dataclasses in and out. Knows the admin protobufs; shows nothing."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import decode, model
from kmsd.client.ca import CaCalls
from kmsd.client.enrolment import EnrolmentCalls, pages, text
from kmsd.client.errors import ClientError, Conflict, InvalidRequest, NotFound
from kmsd.client.jwt import JwtCalls
from kmsd.client.model.keys import Key, KeyType
from kmsd.client.wire import Client, Stranger, Stream

_SERVICE = "/kmsd.admin.v1.Admin"
_KEY_TYPE_NUMBERS = {
    KeyType.AES: pb.KEY_TYPE_AES,
    KeyType.HMAC: pb.KEY_TYPE_HMAC,
    KeyType.PAIR: pb.KEY_TYPE_PAIR,
    KeyType.RSA: pb.KEY_TYPE_RSA,
    KeyType.EC: pb.KEY_TYPE_EC,
}


Response = TypeVar("Response", bound=Message)


class AdminClient(EnrolmentCalls, CaCalls, JwtCalls, Client):
    """A client of the admin API. Every method takes `timeout`: seconds for each of its calls, instead of the client's
    own; all raise ClientError. Threads may share one.

    key: a key id, a label that one key holds, or "sha256:" and the first digits (8 at least) of a key id's hash.
    token: the name of a token in kmsd's configuration; empty: the write token.
    dry_run: find out what would be done, or why not, and change nothing.
    confirm_label: the key's label once more, for what is dangerous.
    """

    STRANGER = Stranger(
        "/v2.KeyManagementService/Status",
        (f"{_SERVICE}/GetStatus", f"{_SERVICE}/GetConfig"),
        "{} is a KMS socket, which kube-apiserver calls: it has no admin API",
        "name kmsd's admin socket instead: with --target or KMSCTL_TARGET",
    )

    def get_status(self, *, tenant: str = "", timeout: float | None = None) -> model.Status:
        """Get how kmsd and its tokens are. tenant: whose write key and health; empty: of kmsd's own sockets."""
        request = pb.GetStatusRequest(tenant=text("tenant", tenant))
        return decode.status.status(self._call("GetStatus", request, pb.GetStatusResponse, timeout))

    def get_config(self, *, timeout: float | None = None) -> model.Config:
        """Get the configuration in force."""
        return decode.config.config(self._call("GetConfig", pb.GetConfigRequest(), pb.GetConfigResponse, timeout))

    def set_log_level(self, level: str = "", *, dry_run: bool = False, timeout: float | None = None) -> model.LogLevel:
        """Set the log level. level: debug, info, warning or error; empty: as configured. dry_run: only ask for the
        present one."""
        request = pb.SetLogLevelRequest(level=text("level", level), dry_run=dry_run)
        answer = self._call("SetLogLevel", request, pb.SetLogLevelResponse, timeout)
        return model.LogLevel(answer.level, answer.previous)

    def list_peers(self, tenant: str = "", *, timeout: float | None = None) -> tuple[model.Peer, ...]:
        """List who called from other machines in the last day, the latest first. tenant: for which one; empty: all."""
        name = text("tenant", tenant)

        def page(token: str) -> pb.ListPeersResponse:
            request = pb.ListPeersRequest(tenant=name, page_token=token)
            return self._call("ListPeers", request, pb.ListPeersResponse, timeout)

        return tuple(decode.status.peer(each) for answer in pages(page) for each in answer.peers)

    def list_slots(self, *, timeout: float | None = None) -> tuple[model.Slot, ...]:
        """List the slots of kmsd's modules and the tokens in them."""

        def page(token: str) -> pb.ListSlotsResponse:
            return self._call("ListSlots", pb.ListSlotsRequest(page_token=token), pb.ListSlotsResponse, timeout)

        return tuple(decode.tokens.slot(each) for answer in pages(page) for each in answer.slots)

    def list_mechanisms(self, token: str = "", *, timeout: float | None = None) -> tuple[model.Mechanism, ...]:
        """List what a token says it can do."""
        name = text("token", token)

        def page(token: str) -> pb.ListMechanismsResponse:
            request = pb.ListMechanismsRequest(token=name, page_token=token)
            return self._call("ListMechanisms", request, pb.ListMechanismsResponse, timeout)

        return tuple(decode.tokens.mechanism(each) for answer in pages(page) for each in answer.mechanisms)

    def unlock_token(self, token: str = "", *, timeout: float | None = None) -> model.UnlockedToken:
        """Have kmsd log in once with the PIN that is configured now, even if the token refused it before; Denied if it
        does again."""
        request = pb.UnlockTokenRequest(token=text("token", token))
        answer = self._call("UnlockToken", request, pb.UnlockTokenResponse, timeout)
        return model.UnlockedToken(answer.token, answer.token_label, answer.logged_in)

    def diagnose(self, token: str = "", *, timeout: float | None = None) -> model.Diagnosis:
        """Try what a token can do, beside what it serves; a slow one takes most of a minute. What is not done in time
        is left out, and that is a check that failed. A token that is away is an answer, too."""
        request = pb.DiagnoseRequest(token=text("token", token))
        return decode.tokens.diagnosis(self._call("Diagnose", request, pb.DiagnoseResponse, timeout))

    def list_keys(self, *, timeout: float | None = None) -> tuple[Key, ...]:
        """List the keys on all tokens."""

        def page(token: str) -> pb.ListKeysResponse:
            return self._call("ListKeys", pb.ListKeysRequest(page_token=token), pb.ListKeysResponse, timeout)

        return tuple(decode.keys.key(each) for answer in pages(page) for each in answer.keys)

    def get_key(self, key: str, *, timeout: float | None = None) -> model.KeyDetail:
        """Get all that is known of one key."""
        answer = self._call("GetKey", pb.GetKeyRequest(key=text("key", key)), pb.GetKeyResponse, timeout)
        return model.KeyDetail(decode.keys.key(answer.key), decode.keys.optional_key(answer, "companion"))

    def generate_key(
        self,
        label: str,
        *,
        type: KeyType | None = None,  # noqa: A002 - the field's name in the API
        bits: int = 256,
        key_id: str = "",
        if_not_exists: bool = False,
        token: str = "",
        purpose: str = "",
        timeout: float | None = None,
    ) -> model.GeneratedKey:
        """Make a key on the token. type: None for what serves there. key_id: text for CKA_ID; empty: kmsd makes one.
        purpose: "jwt" for an EC or RSA key pair that signs service account tokens; empty: a key that encrypts.

        Conflict if the label or key id is taken; with if_not_exists, the key that has the label is answered.
        """
        number = pb.KEY_TYPE_UNSPECIFIED if type is None else _KEY_TYPE_NUMBERS.get(type)
        if number is None:
            raise InvalidRequest(
                f"keys of type {type} cannot be made", "make an aes or hmac key, or a pair", "INVALID_ARGUMENT"
            )
        request = pb.GenerateKeyRequest(
            label=text("label", label),
            type=number,
            bits=bits,
            key_id=text("key id", key_id),
            if_not_exists=if_not_exists,
            token=text("token", token),
            purpose=text("purpose", purpose),
        )
        answer = self._call("GenerateKey", request, pb.GenerateKeyResponse, timeout)
        return model.GeneratedKey(
            decode.keys.key(answer.key), answer.created, decode.keys.optional_key(answer, "companion")
        )

    def adopt_key(self, label: str, *, key_id: str = "", public: bool = False, timeout: float | None = None) -> Key:
        """Give a CKA_ID to the key that has this label and none; with `public`, make a private copy of the public key
        that has it. NotFound, Conflict."""
        request = pb.AdoptKeyRequest(label=text("label", label), key_id=text("key id", key_id), public=public)
        return decode.keys.key(self._call("AdoptKey", request, pb.AdoptKeyResponse, timeout).key)

    def relabel_key(
        self, key: str, label: str, *, confirm_label: str = "", dry_run: bool = False, timeout: float | None = None
    ) -> model.RelabelledKey:
        """Give a key another label. Conflict if the label is taken, or if it would change which key writes and
        confirm_label is missing."""
        request = pb.RelabelKeyRequest(
            key=text("key", key),
            label=text("label", label),
            confirm_label=text("label", confirm_label),
            dry_run=dry_run,
        )
        answer = self._call("RelabelKey", request, pb.RelabelKeyResponse, timeout)
        return model.RelabelledKey(decode.keys.key(answer.key), answer.previous_label)

    def destroy_key(
        self,
        key: str,
        *,
        scan: model.ScanReport | None = None,
        confirm_label: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.DestroyedKey:
        """Destroy a key for good. scan: what is stored, counted. Conflict if nothing shows that it is not needed."""
        request = pb.DestroyKeyRequest(
            key=text("key", key), confirm_label=text("label", confirm_label), dry_run=dry_run
        )
        if scan is not None:
            request.scan.CopyFrom(decode.scan.scan_report(scan))
        answer = self._call("DestroyKey", request, pb.DestroyKeyResponse, timeout)
        return model.DestroyedKey(
            decode.keys.key(answer.key), decode.keys.optional_key(answer, "companion"), answer.destroyed
        )

    def test_key(self, key: str, *, rounds: int = 10, timeout: float | None = None) -> model.KeyTest:
        """Encrypt and decrypt random bytes. rounds: 1 to 1000."""
        request = pb.TestKeyRequest(key=text("key", key), rounds=rounds)
        return decode.keys.key_test(self._call("TestKey", request, pb.TestKeyResponse, timeout))

    def rotate_key(
        self,
        label: str = "",
        *,
        from_key_id: str = "",
        token: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.Rotation:
        """Make a new key write. from_key_id: rotate only away from this key, so that a repeated call rotates once."""
        request = pb.RotateKeyRequest(
            label=text("label", label),
            from_key_id=text("key id", from_key_id),
            token=text("token", token),
            dry_run=dry_run,
        )
        return decode.rotation.rotation(self._call("RotateKey", request, pb.RotateKeyResponse, timeout))

    def retire_key(
        self,
        key: str,
        *,
        scan: model.ScanReport | None = None,
        confirm_label: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.RelabelledKey:
        """Mark a key that nothing needs. scan: what is stored, counted. Conflict if nothing shows that."""
        request = pb.RetireKeyRequest(key=text("key", key), confirm_label=text("label", confirm_label), dry_run=dry_run)
        if scan is not None:
            request.scan.CopyFrom(decode.scan.scan_report(scan))
        answer = self._call("RetireKey", request, pb.RetireKeyResponse, timeout)
        return model.RelabelledKey(decode.keys.key(answer.key), answer.previous_label)

    def revert_key(
        self, label: str = "", *, from_key_id: str = "", dry_run: bool = False, timeout: float | None = None
    ) -> model.Reversion:
        """Make a new key write, after a bad rotation, on the token of the one before."""
        request = pb.RevertKeyRequest(
            label=text("label", label), from_key_id=text("key id", from_key_id), dry_run=dry_run
        )
        return decode.rotation.reversion(self._call("RevertKey", request, pb.RevertKeyResponse, timeout))

    def inspect_ciphertext(self, data: bytes, *, timeout: float | None = None) -> model.Inspection:
        """Explain a ciphertext or a stored value."""
        request = pb.InspectCiphertextRequest(data=data)
        return decode.inspection.inspection(
            self._call("InspectCiphertext", request, pb.InspectCiphertextResponse, timeout)
        )

    def try_ciphertext(self, data: bytes, *, timeout: float | None = None) -> model.Key | ClientError:
        """Have a stored value decrypted; return the key that opened it, or why it does not open. The plaintext stays in
        kmsd, and the audit records the attempt. Raises ClientError for what says nothing of the value: a token that is
        away, an older kmsd."""
        request = pb.TryCiphertextRequest(data=data)
        try:
            return decode.keys.key(self._call("TryCiphertext", request, pb.TryCiphertextResponse, timeout).key)
        except (InvalidRequest, NotFound, Conflict) as error:
            return error

    # A stream has no end in time unless `timeout` gives it one, in seconds for all of it.

    def watch_stats(
        self, *, interval: float = 1.0, history: float = 900.0, tenant: str = "", timeout: float | None = None
    ) -> Stream[model.StatsFrame]:
        """Follow the statistics. interval: seconds from 0.2 to 60. history: seconds of it in the first frame; 0: none.
        tenant: whose calls are counted; empty: all."""
        request = pb.WatchStatsRequest(
            interval_ms=round(interval * 1000), history_seconds=round(history) or -1, tenant=text("tenant", tenant)
        )
        return self._stream("WatchStats", request, pb.WatchStatsResponse, timeout).map(decode.stats.stats_frame)

    def get_metrics(self, *, timeout: float | None = None) -> Stream[bytes]:
        """Get all metrics in the text format of Prometheus, in pieces."""
        request = pb.GetMetricsRequest()
        return self._stream("GetMetrics", request, pb.GetMetricsResponse, timeout).map(lambda each: each.text)

    def watch_requests(
        self,
        *,
        backlog: int = 0,
        follow: bool = True,
        admin: bool = False,
        wanted: model.Filter | None = None,
        timeout: float | None = None,
    ) -> Stream[model.Requests]:
        """Follow the calls, after the last `backlog` of them. admin: those of the admin API, too."""
        request = pb.WatchRequestsRequest(
            backlog=backlog, follow=follow, admin=admin, filter=decode.stats.wanted(wanted)
        )
        return self._stream("WatchRequests", request, pb.WatchRequestsResponse, timeout).map(decode.stats.requests)

    def watch_audit(
        self,
        *,
        backlog: int = 0,
        follow: bool = True,
        wanted: model.Filter | None = None,
        timeout: float | None = None,
    ) -> Stream[model.AuditRecords]:
        """Follow the audit, after its last `backlog` records."""
        request = pb.WatchAuditRequest(backlog=backlog, follow=follow, filter=decode.stats.wanted(wanted))
        return self._stream("WatchAudit", request, pb.WatchAuditResponse, timeout).map(decode.audit.audit_records)

    def verify_audit(self, *, timeout: float | None = None) -> model.AuditVerdict:
        """Have kmsd prove the audit's chains."""
        return decode.audit.audit_verdict(
            self._call("VerifyAudit", pb.VerifyAuditRequest(), pb.VerifyAuditResponse, timeout)
        )

    def acknowledge_audit(
        self, *, up_to_seq: int = 0, dry_run: bool = False, timeout: float | None = None
    ) -> model.Acknowledgement:
        """Put away what other programs were seen to do to the audit. up_to_seq: what the records up to this one tell;
        0: all."""
        request = pb.AcknowledgeAuditRequest(up_to_seq=up_to_seq, dry_run=dry_run)
        answer = self._call("AcknowledgeAudit", request, pb.AcknowledgeAuditResponse, timeout)
        return decode.audit.acknowledgement(answer)

    def _call(self, method: str, request: Message, response: type[Response], timeout: float | None) -> Response:
        return self._wire.call(f"{_SERVICE}/{method}", request, response, timeout)

    def _stream(
        self, method: str, request: Message, response: type[Response], timeout: float | None
    ) -> Stream[Response]:
        return self._wire.stream(f"{_SERVICE}/{method}", request, response, timeout)
