"""What happens, told to the log, the audit, the statistics and systemd. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.hsm.connection import Hsm
from kmsd.observe import logs
from kmsd.observe.audit import Audit
from kmsd.observe.feed import Feed
from kmsd.observe.health import HealthView
from kmsd.observe.sdnotify import notify
from kmsd.observe.stats import Stats
from kmsd.picture import Picture
from kmsd.rpc.admin_watch import Ended
from kmsd.rpc.call import Call

log = logs.get_logger("kmsd")

_AUDITED: Final = frozenset({"Encrypt", "Decrypt"})
_OPERATIONS: Final = {
    "encrypt_native": "encrypt",
    "encrypt_legacy": "encrypt",
    "encrypt": "encrypt",
    "decrypt_here": "decrypt",
    "round_trip_here": "probe",
    "decrypt_gcm": "decrypt",
    "_round_trip": "probe",
    "list_keys": "list keys",
    "with_rw": "change keys",
}
"""What the functions that run on the token are called in the statistics."""


@dataclass(frozen=True)
class Traffic:
    """Hears of every call and of every operation of a token."""

    stats: Stats
    requests: Feed[Ended]
    audit: Audit

    def began(self) -> None:
        self.stats.began()

    def ended(self, call: Call, code: str, seconds: float) -> None:
        self.stats.ended()
        self.stats.record(call.api, call.method, code, seconds)
        self.requests.publish(Ended(time.time(), call.api, call.method, call.uid, call.key_id_sha256, code, seconds))
        if call.method in _AUDITED:
            self.audit.kms(
                f"{call.api} {call.method}",
                code,
                seconds=seconds,
                key_id_sha256=call.key_id_sha256,
                detail=call.uid,
            )
        if logs.debugging():
            log.debug(
                "call",
                api=call.api,
                method=call.method,
                code=code,
                ms=round(seconds * 1000, 3),
                uid=call.uid,
                key_id_sha256=call.key_id_sha256,
            )

    def operation(self, fn: Callable[..., object], seconds: float) -> None:
        self.stats.operation(_OPERATIONS.get(fn.__name__, "other"), seconds)


def token_up(audit: Audit, name: str, hsm: Hsm, sessions: int) -> None:
    """sessions: how many are open, on all tokens."""
    connected = hsm.connected
    if connected is not None:
        log.info("token is up", token=connected.token.label, slot=connected.slot_id, module=connected.module.path)
    audit.event("token up", detail=f"{name}, {sessions} sessions open")


def token_down(audit: Audit, name: str, hsm: Hsm) -> None:
    log.warning("token is down", token=name, reason=hsm.error.message, hint=hsm.error.hint)
    audit.event("token down", outcome="UNAVAILABLE", detail=f"{name}: {hsm.error.message}")


def socket_remade(audit: Audit, path: Path, what: str) -> None:
    log.warning("socket made anew", socket=str(path), reason=what)
    audit.event("socket made anew", detail=f"{path}: {what}")


def gives_up(audit: Audit, reason: str) -> None:
    log.error("kmsd gives up: only a restart can help", reason=reason)
    notify(STATUS=f"gives up: {reason}")
    audit.event("kmsd gives up", outcome="UNAVAILABLE", detail=reason)


def keys_changed(after: Picture) -> None:
    new = after.write
    log.info(
        "keys changed",
        keys=len(after.keys),
        write_key_id=new.key_id if new else None,
        write_key_id_sha256=new.key_id_sha256 if new else None,
    )
    for problem in after.problems:
        if not problem.passing:
            log.warning(problem.message, hint=problem.hint)


def write_key_changed(audit: Audit, before: Picture, after: Picture) -> None:
    old, new = before.write, after.write
    audit.event(
        "write key",
        outcome="OK" if new else "NOT_FOUND",
        key_id_sha256=new.key_id_sha256 if new else "",
        detail=f"{old.key_id if old else 'none'} -> {new.key_id if new else 'none'}",
    )


def health_changed(audit: Audit, view: HealthView) -> None:
    if view.ok:
        log.info("healthy", round_trip_ms=round(view.round_trip * 1000, 3))
        notify(STATUS="serving")
        audit.event("healthy")
    elif view.error is not None:
        log.warning("not healthy", reason=view.error.message, hint=view.error.hint)
        notify(STATUS=f"not healthy: {view.error.message}")
        audit.event("not healthy", outcome=view.error.code, detail=view.error.message)
