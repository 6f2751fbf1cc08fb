"""From the messages of the admin API to the dataclasses of `model`. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import model
from kmsd.client.model import (
    Key,
    KeyState,
    KeyType,
    Listener,
    Outcome,
    Probe,
    Problem,
    ServingState,
    Sessions,
    Slot,
    Status,
    Token,
)

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
    pb.KEY_STATE_ARCHIVED: KeyState.ARCHIVED,
}
_KEY_TYPES = {
    pb.KEY_TYPE_AES: KeyType.AES,
    pb.KEY_TYPE_HMAC: KeyType.HMAC,
    pb.KEY_TYPE_OTHER: KeyType.OTHER,
}
_OUTCOMES = {each.value: each for each in Outcome}


def time(unix_ms: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=unix_ms) if unix_ms > 0 else None
    except OverflowError:
        return None  # an identity that only looks like a version 7 UUID may carry any number


def key(key: pb.Key) -> Key:
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
        created=time(key.created_unix_ms),
        token_label=key.token_label,
        token=key.token,
        encrypts=key.encrypts,
        decrypts=key.decrypts,
        last_used=time(key.last_used_unix_ms),
        enc=key.enc,
    )


def slot(slot: pb.ListSlotsResponse.Slot) -> Slot:
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
        module=slot.module,
        name=slot.name,
        sessions=slot.sessions if slot.HasField("sessions") else None,
        sessions_max=slot.sessions_max if slot.HasField("sessions_max") else None,
        rw_sessions=slot.rw_sessions if slot.HasField("rw_sessions") else None,
        rw_sessions_max=slot.rw_sessions_max if slot.HasField("rw_sessions_max") else None,
    )


def diagnosis(found: pb.DiagnoseResponse) -> model.Diagnosis:
    verdict, able = found.verdict, found.abilities
    return model.Diagnosis(
        token=found.token,
        token_label=found.token_label,
        up=found.up,
        module=found.module,
        library=found.library,
        provider=found.provider,
        provider_title=found.provider_title,
        outcome=_OUTCOMES.get(found.outcome, Outcome.UNKNOWN),
        checks=tuple(
            model.Check(each.name, each.title, _OUTCOMES.get(each.outcome, Outcome.UNKNOWN), each.seen, each.fix)
            for each in found.checks
        ),
        verdict=model.Verdict(verdict.algorithm, verdict.enc, verdict.text, verdict.hint, verdict.cbc_from_ecb),
        abilities=model.Abilities(
            gcm_iv_sizes=tuple(able.gcm_iv_sizes),
            gcm_iv_by_token=able.gcm_iv_by_token,
            cbc=able.cbc,
            cbc_pad=able.cbc_pad,
            ecb=able.ecb,
            hmac_sha256=able.hmac_sha256,
            hmac_sha512=able.hmac_sha512,
            hmac_empty=able.hmac_empty,
            hmac_longest=able.hmac_longest,
            oaep_sha256=able.oaep_sha256,
            generate_aes=able.generate_aes,
            generate_hmac=able.generate_hmac,
            relabel=able.relabel,
            sessions=able.sessions,
            foreign_changes=able.foreign_changes,
        ),
        speeds=tuple(model.Speed(each.operation, each.ms, each.per_second, each.threads) for each in found.timings),
        seconds=found.seconds,
    )


def status(status: pb.GetStatusResponse) -> Status:
    following = status.following
    return Status(
        version=status.version,
        state=_SERVING_STATES.get(status.state, ServingState.UNKNOWN),
        healthz=status.healthz,
        hint=status.hint,
        started=time(status.started_unix_ms),
        write_label=status.write_label,
        write_key=optional_key(status, "write_key"),
        token=_token(status.token),
        sessions=sessions(status.sessions),
        probe=Probe(time(status.probe.last_success_unix_ms), status.probe.round_trip_ms),
        listeners=tuple(Listener(each.socket, tuple(each.apis)) for each in status.listeners),
        problems=tuple(map(problem, status.problems)),
        keys=status.keys,
        write_format=status.write_format,
        tokens=tuple(
            model.TokenStatus(
                each.name, _token(each.token), sessions(each.sessions), each.write, each.reason, each.hint, each.keys
            )
            for each in status.tokens
        ),
        following=model.Following(
            since=time(following.since_unix_ms),
            first_status=time(following.first_status_unix_ms),
            last_status=time(following.last_status_unix_ms),
            first_encrypt=time(following.first_encrypt_unix_ms),
            last_encrypt=time(following.last_encrypt_unix_ms),
            previous_key_id=following.previous_key_id,
            previous_key_id_sha256=following.previous_key_id_sha256,
        ),
    )


def _token(token: pb.GetStatusResponse.Token) -> Token:
    return Token(
        module=token.module,
        label=token.label,
        serial=token.serial,
        model=token.model,
        manufacturer=token.manufacturer,
        slot_id=token.slot_id,
        up=token.up,
    )


def sessions(sessions: pb.GetStatusResponse.Sessions) -> Sessions:
    return Sessions(
        open=sessions.open,
        configured=sessions.configured,
        busy=sessions.busy,
        stuck=sessions.stuck,
        queued=sessions.queued,
    )


def problem(problem: pb.Problem) -> Problem:
    return Problem(problem.message, problem.hint, problem.fatal)


class _HasField(Protocol):
    def HasField(self, field_name: str) -> bool: ...  # noqa: N802 - protobuf's name


def optional_key(message: _HasField, field: str) -> Key | None:
    return key(getattr(message, field)) if message.HasField(field) else None


def config(config: pb.GetConfigResponse) -> model.Config:
    settings = tuple(
        model.Setting(each.name, each.value, each.origin, each.secret, each.reloadable) for each in config.settings
    )
    return model.Config(config.file, settings, tuple(config.warnings))


def mechanism(mechanism: pb.ListMechanismsResponse.Mechanism) -> model.Mechanism:
    return model.Mechanism(
        name=mechanism.name,
        type=mechanism.type,
        min_key=mechanism.min_key,
        max_key=mechanism.max_key,
        flags=tuple(mechanism.flags),
        used_for=mechanism.used_for,
    )


def key_test(test: pb.TestKeyResponse) -> model.KeyTest:
    return model.KeyTest(
        key=key(test.key),
        rounds=test.rounds,
        encrypt=model.Timing(test.encrypt_ms_min, test.encrypt_ms_median, test.encrypt_ms_max),
        decrypt=model.Timing(test.decrypt_ms_min, test.decrypt_ms_median, test.decrypt_ms_max),
    )


def _step(step: pb.RotationStep) -> model.RotationStep:
    return model.RotationStep(
        action=step.action,
        key_id=step.key_id,
        key_id_sha256=step.key_id_sha256,
        from_label=step.from_label,
        to_label=step.to_label,
        token=step.token,
        done=step.done,
        text=step.text,
    )


def rotation(answer: pb.RotateKeyResponse) -> model.Rotation:
    return model.Rotation(
        steps=tuple(map(_step, answer.steps)),
        old=optional_key(answer, "old_key"),
        new=optional_key(answer, "new_key"),
        rotated=answer.rotated,
    )


def reversion(answer: pb.RevertKeyResponse) -> model.Reversion:
    return model.Reversion(
        steps=tuple(map(_step, answer.steps)),
        old=optional_key(answer, "old_key"),
        new=optional_key(answer, "new_key"),
        previous=optional_key(answer, "previous_key"),
        reverted=answer.reverted,
        not_undone=tuple(answer.not_undone),
    )


def scan_report(report: model.ScanReport) -> pb.ScanReport:
    """The other way round: what a client counted, for kmsd."""
    return pb.ScanReport(
        started_unix_ms=_unix_ms(report.started),
        finished_unix_ms=_unix_ms(report.finished),
        cluster_id=report.cluster_id,
        prefix=report.prefix,
        revision=report.revision,
        objects=report.objects,
        unknown=report.unknown,
        uses=[
            pb.ScanReport.Use(key_id=each.key_id, objects=each.objects, by_label=each.by_label) for each in report.uses
        ],
    )


def _unix_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def inspection(answer: pb.InspectCiphertextResponse) -> model.Inspection:
    envelope, jwe = answer.envelope, answer.jwe
    return model.Inspection(
        format=answer.format,
        summary=answer.summary,
        envelope=model.Envelope(
            prefix=envelope.prefix,
            provider=envelope.provider,
            key_id=envelope.key_id,
            key_id_sha256=envelope.key_id_sha256,
            source_type=envelope.source_type,
            encrypted_dek_bytes=envelope.encrypted_dek_bytes,
            encrypted_data_bytes=envelope.encrypted_data_bytes,
            annotations=tuple(envelope.annotations),
        )
        if answer.HasField("envelope")
        else None,
        jwe=model.Jwe(
            alg=jwe.alg,
            enc=jwe.enc,
            kid=jwe.kid,
            kid_sha256=jwe.kid_sha256,
            iv_bytes=jwe.iv_bytes,
            ciphertext_bytes=jwe.ciphertext_bytes,
            tag_bytes=jwe.tag_bytes,
            header=jwe.header,
        )
        if answer.HasField("jwe")
        else None,
        keys=tuple(map(key, answer.keys)),
        findings=tuple(map(problem, answer.findings)),
        readable=answer.readable,
    )


def _latency(latency: pb.WatchStatsResponse.Latency) -> model.Latency:
    return model.Latency(
        api=latency.api,
        method=latency.method,
        count=latency.count,
        sum_ms=latency.sum_ms,
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
        p99_ms=latency.p99_ms,
        max_ms=latency.max_ms,
    )


def stats_frame(frame: pb.WatchStatsResponse) -> model.StatsFrame:
    return model.StatsFrame(
        time=time(frame.unix_ms),
        seconds=tuple(
            model.Second(
                time=_EPOCH + timedelta(seconds=each.unix_s),
                requests=each.requests,
                errors=each.errors,
                encrypts=each.encrypts,
                decrypts=each.decrypts,
                p50_ms=each.p50_ms,
                p99_ms=each.p99_ms,
                max_ms=each.max_ms,
            )
            for each in frame.seconds
        ),
        calls=tuple(model.CallCount(each.api, each.method, each.code, each.count) for each in frame.calls),
        latencies=tuple(map(_latency, frame.latencies)),
        operations=tuple(map(_latency, frame.operations)),
        keys=tuple(
            model.KeyUse(each.key_id, each.key_id_sha256, each.encrypts, each.decrypts, time(each.last_used_unix_ms))
            for each in frame.keys
        ),
        sessions=sessions(frame.sessions),
        in_flight=frame.in_flight,
        started=time(frame.started_unix_ms),
        quantile_error=frame.quantile_error,
    )


def requests(answer: pb.WatchRequestsResponse) -> model.Requests:
    return model.Requests(
        tuple(
            model.Request(
                time=time(each.unix_ms),
                api=each.api,
                method=each.method,
                uid=each.uid,
                key_id_sha256=each.key_id_sha256,
                code=each.code,
                latency_ms=each.latency_ms,
            )
            for each in answer.requests
        ),
        answer.dropped,
    )


def audit_records(answer: pb.WatchAuditResponse) -> model.AuditRecords:
    return model.AuditRecords(
        tuple(
            model.AuditRecord(
                seq=each.seq,
                time=time(each.unix_ms),
                kind=each.kind,
                action=each.action,
                caller=each.caller,
                key_id_sha256=each.key_id_sha256,
                outcome=each.outcome,
                latency_ms=each.latency_ms,
                detail=each.detail,
                line=each.line,
            )
            for each in answer.records
        ),
        answer.dropped,
    )


def audit_verdict(answer: pb.VerifyAuditResponse) -> model.AuditVerdict:
    return model.AuditVerdict(
        intact=answer.intact,
        records=answer.records,
        first_seq=answer.first_seq,
        last_seq=answer.last_seq,
        head=answer.head,
        files=tuple(answer.files),
        problem=answer.problem,
    )
