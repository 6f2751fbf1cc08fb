"""What `-o json` and `-o yaml` print. The names here are a contract with scripts: they are added to, never
changed. What kmsd does not know is null; times are RFC 3339. Knows nothing of how it is written."""

from __future__ import annotations

from kmsctl.output import Document
from kmsctl.text import timestamp
from kmsd.client import Key, Problem, Slot, Status


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
        "private": key.private,
        "created_at": timestamp(key.created),
        "token_label": key.token_label,
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
        }
    return {
        "slot_id": slot.slot_id,
        "description": slot.description,
        "manufacturer": slot.manufacturer,
        "in_use": slot.in_use,
        "token": token,
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
        "write_key": None if status.write_key is None else key(status.write_key),
        "keys": status.keys,
        "token": {
            "up": status.token.up,
            "label": status.token.label,
            "serial": status.token.serial,
            "model": status.token.model,
            "manufacturer": status.token.manufacturer,
            "slot_id": status.token.slot_id,
            "module": status.token.module,
        },
        "sessions": {
            "open": status.sessions.open,
            "configured": status.sessions.configured,
            "busy": status.sessions.busy,
            "stuck": status.sessions.stuck,
            "queued": status.sessions.queued,
        },
        "probe": {
            "last_success_at": timestamp(status.probe.last_success),
            "round_trip_ms": status.probe.round_trip_ms,
        },
        "listeners": [{"socket": each.socket, "apis": list(each.apis)} for each in status.listeners],
        "problems": [_problem(each) for each in status.problems],
    }


def _problem(problem: Problem) -> Document:
    return {"message": problem.message, "hint": problem.hint or None, "fatal": problem.fatal}
