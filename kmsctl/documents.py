"""What `-o json` and `-o yaml` print. The names here are a contract with scripts: they are added to, never
changed. What kmsd does not know is null; times are RFC 3339. Knows nothing of how it is written."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from kmsctl.output import Document
from kmsctl.text import timestamp

if TYPE_CHECKING:
    from kmsd.client import (
        Acknowledgement,
        AuditChain,
        AuditRecord,
        AuditVerdict,
        Config,
        Diagnosis,
        Following,
        Inspection,
        Key,
        KeyTest,
        Mechanism,
        Problem,
        Request,
        RotationStep,
        Sessions,
        Slot,
        Status,
        Timing,
        Token,
        TokenStatus,
    )


def key(key: Key) -> Document:
    return {
        "label": key.label,
        "key_id": key.key_id or None,
        "key_id_sha256": key.key_id_sha256 or None,
        "type": key.type.value,
        "bits": key.bits,
        "state": key.state.value,
        "unusable_reason": key.unusable_reason or None,
        "unusable_hint": key.unusable_hint or None,
        "can_encrypt": key.can_encrypt,
        "can_decrypt": key.can_decrypt,
        "can_sign": key.can_sign,
        "can_verify": key.can_verify,
        "sensitive": key.sensitive,
        "extractable": key.extractable,
        "local": key.local,
        "always_sensitive": key.always_sensitive,
        "never_extractable": key.never_extractable,
        "private": key.private,
        "created_at": timestamp(key.created),
        "token_label": key.token_label,
        "token": key.token or None,
        "encrypts": key.encrypts,
        "decrypts": key.decrypts,
        "last_used_at": timestamp(key.last_used),
        "enc": key.enc or None,
    }


def optional_key(found: Key | None) -> Document | None:
    return None if found is None else key(found)


def key_test(test: KeyTest) -> Document:
    return {
        "key": key(test.key),
        "rounds": test.rounds,
        "encrypt_ms": _timing(test.encrypt),
        "decrypt_ms": _timing(test.decrypt),
    }


def _timing(timing: Timing) -> Document:
    return {"min": timing.minimum, "median": timing.median, "max": timing.maximum}


def step(step: RotationStep) -> Document:
    return {
        "action": step.action,
        "key_id": step.key_id or None,
        "key_id_sha256": step.key_id_sha256 or None,
        "from_label": step.from_label or None,
        "to_label": step.to_label or None,
        "token": step.token or None,
        "done": step.done,
        "text": step.text,
    }


def slot(slot: Slot) -> Document:
    token: Document | None = None
    if slot.token_present:
        token = {
            "label": slot.token_label,
            "serial": slot.token_serial,
            "model": slot.token_model,
            "manufacturer": slot.token_manufacturer,
            "flags": list(slot.flags),
            "pin_warnings": list(slot.pin_warnings),
            "name": slot.name or None,
            "sessions": slot.sessions,
            "sessions_max": slot.sessions_max,
            "rw_sessions": slot.rw_sessions,
            "rw_sessions_max": slot.rw_sessions_max,
        }
    return {
        "slot_id": slot.slot_id,
        "description": slot.description,
        "manufacturer": slot.manufacturer,
        "in_use": slot.in_use,
        "token": token,
        "module": slot.module or None,
    }


def mechanism(mechanism: Mechanism) -> Document:
    return {
        "name": mechanism.name,
        "type": mechanism.type,
        "min_key": mechanism.min_key,
        "max_key": mechanism.max_key,
        "flags": list(mechanism.flags),
        "used_for": mechanism.used_for or None,
    }


def diagnosis(found: Diagnosis) -> Document:
    verdict = found.verdict
    return {
        "token": found.token,
        "token_label": found.token_label or None,
        "up": found.up,
        "outcome": found.outcome.value,
        "module": found.module or None,
        "library": found.library or None,
        "provider": found.provider,
        "provider_title": found.provider_title,
        "verdict": {
            "algorithm": verdict.algorithm,
            "enc": verdict.enc or None,
            "text": verdict.text,
            "hint": verdict.hint or None,
            "cbc_from_ecb": verdict.cbc_from_ecb,
        },
        "checks": [
            {
                "name": each.name,
                "title": each.title,
                "outcome": each.outcome.value,
                "seen": each.seen,
                "fix": each.fix or None,
            }
            for each in found.checks
        ],
        "abilities": {**asdict(found.abilities), "gcm_iv_sizes": list(found.abilities.gcm_iv_sizes)},
        "speeds": [asdict(each) for each in found.speeds],
        "seconds": found.seconds,
    }


def status(status: Status) -> Document:
    return {
        "version": status.version,
        "state": status.state.value,
        "healthz": status.healthz,
        "hint": status.hint or None,
        "started_at": timestamp(status.started),
        "write_label": status.write_label,
        "write_format": status.write_format,
        "write_key": optional_key(status.write_key),
        "keys": status.keys,
        "token": _token(status.token),
        "sessions": sessions(status.sessions),
        "probe": {
            "last_success_at": timestamp(status.probe.last_success),
            "round_trip_ms": status.probe.round_trip_ms,
        },
        "listeners": [{"socket": each.socket, "apis": list(each.apis)} for each in status.listeners],
        "problems": [problem(each) for each in status.problems],
        "tokens": [token_status(each) for each in status.tokens],
        "following": _following(status.following),
        "not_alive": status.not_alive or None,
        "now": timestamp(status.now),
        "host": status.host or None,
        "outgoing_key": optional_key(status.replaceable),
    }


def token_status(status: TokenStatus) -> Document:
    return {
        "name": status.name,
        "write": status.write,
        "keys": status.keys,
        **_token(status.token),
        "reason": status.reason or None,
        "hint": status.hint or None,
        "sessions": sessions(status.sessions),
        "process": {
            "pid": status.process.pid or None,
            "since": timestamp(status.process.since),
            "served": status.process.served,
            "reason": status.process.reason or None,
        },
    }


def _token(token: Token) -> Document:
    return {
        "up": token.up,
        "label": token.label,
        "serial": token.serial,
        "model": token.model,
        "manufacturer": token.manufacturer,
        "slot_id": token.slot_id,
        "module": token.module,
    }


def sessions(sessions: Sessions) -> Document:
    return {
        "open": sessions.open,
        "configured": sessions.configured,
        "busy": sessions.busy,
        "stuck": sessions.stuck,
        "queued": sessions.queued,
    }


def _following(following: Following) -> Document:
    times: dict[str, datetime | None] = {
        "since": following.since,
        "first_status_at": following.first_status,
        "last_status_at": following.last_status,
        "first_encrypt_at": following.first_encrypt,
        "last_encrypt_at": following.last_encrypt,
    }
    return {
        **{name: timestamp(moment) for name, moment in times.items()},
        "previous_key_id": following.previous_key_id or None,
        "previous_key_id_sha256": following.previous_key_id_sha256 or None,
    }


def problem(problem: Problem) -> Document:
    return {"message": problem.message, "hint": problem.hint or None, "fatal": problem.fatal}


def config(config: Config) -> Document:
    return {
        "file": config.file or None,
        "settings": [
            {
                "name": each.name,
                "value": _value(each.value),
                "origin": each.origin,
                "secret": each.secret,
                "reloadable": each.reloadable,
            }
            for each in config.settings
        ],
        "warnings": list(config.warnings),
    }


def _value(text: str) -> object:
    """What a setting is that kmsd writes as TOML."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def request(request: Request) -> Document:
    return {
        "time": timestamp(request.time),
        "api": request.api,
        "method": request.method,
        "uid": request.uid or None,
        "key_id_sha256": request.key_id_sha256 or None,
        "code": request.code,
        "latency_ms": request.latency_ms,
        "reason": request.reason or None,
    }


def audit_record(record: AuditRecord) -> Document:
    return {
        "seq": record.seq,
        "time": timestamp(record.time),
        "kind": record.kind,
        "action": record.action,
        "caller": record.caller or None,
        "key_id_sha256": record.key_id_sha256 or None,
        "outcome": record.outcome or None,
        "latency_ms": record.latency_ms,
        "detail": record.detail or None,
        "reason": record.reason or None,
        "line": record.line,
    }


def audit_verdict(verdict: AuditVerdict) -> Document:
    return {**_proved(verdict), "chains": [{"name": each.name, **_proved(each)} for each in verdict.chains]}


def _proved(proved: AuditVerdict | AuditChain) -> Document:
    return {
        "intact": proved.intact,
        "records": proved.records,
        "first_seq": proved.first_seq,
        "last_seq": proved.last_seq,
        "head": proved.head or None,
        "files": list(proved.files),
        "problem": proved.problem or None,
    }


def acknowledgement(found: Acknowledgement, *, dry_run: bool) -> Document:
    return {
        "acknowledged": found.acknowledged,
        "dry_run": dry_run,
        "seen": [{"seq": each.seq, "time": timestamp(each.time), "text": each.text} for each in found.seen],
    }


def inspection(found: Inspection) -> Document:
    envelope, jwe = found.envelope, found.jwe
    return {
        "format": found.format,
        "summary": found.summary,
        "readable": found.readable,
        "envelope": None
        if envelope is None
        else {
            "prefix": envelope.prefix,
            "provider": envelope.provider,
            "key_id": envelope.key_id or None,
            "key_id_sha256": envelope.key_id_sha256 or None,
            "source_type": envelope.source_type or None,
            "encrypted_dek_bytes": envelope.encrypted_dek_bytes,
            "encrypted_data_bytes": envelope.encrypted_data_bytes,
            "annotations": list(envelope.annotations),
        },
        "jwe": None
        if jwe is None
        else {
            "alg": jwe.alg,
            "enc": jwe.enc,
            "kid": jwe.kid or None,
            "kid_sha256": jwe.kid_sha256 or None,
            "iv_bytes": jwe.iv_bytes,
            "ciphertext_bytes": jwe.ciphertext_bytes,
            "tag_bytes": jwe.tag_bytes,
            "header": jwe.header,
        },
        "keys": [key(each) for each in found.keys],
        "findings": [problem(each) for each in found.findings],
    }
