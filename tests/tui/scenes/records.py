"""The end of an audit: two days of admin actions, events and sampled calls."""

from __future__ import annotations

import hashlib
from datetime import datetime

from kmsd.client import AuditRecord, Key
from kmstui.view import Numbered, Tail
from tests.tui.scenes.daemon import KEYS, OLD, WRITE
from tests.tui.scenes.when import before


def _record(
    seq: int,
    time: datetime,
    kind: str,
    action: str,
    caller: str,
    used: Key | None,
    outcome: str,
    detail: str,
    ms: float = 0.0,
) -> Numbered[AuditRecord]:
    digest = used.key_id_sha256 if used is not None else ""
    line = (
        f'{{"v":1,"seq":{seq},"time":"{time:%Y-%m-%dT%H:%M:%S.%f}Z","kind":"{kind}","action":"{action}",'
        f'"caller":"{caller}","key_id_sha256":"{digest}","outcome":"{outcome}","detail":"{detail}",'
        f'"prev":"{hashlib.sha256(str(seq).encode()).hexdigest()}"}}'
    )
    return Numbered(seq, AuditRecord(seq, time, kind, action, caller, digest, outcome, ms, detail, line))


def audit() -> Tail[AuditRecord]:
    me = "kmsctl(anna) uid=0 user=root"
    other = "kmstui uid=0 user=root for=ben"
    shown: list[Numbered[AuditRecord]] = [
        _record(40_180, before(hours=30), "event", "started", "kmsd", None, "OK", "version 0.2.0"),
        _record(40_181, before(hours=30, seconds=-2), "event", "token up", "kmsd", None, "OK", "prod-hsm, 8 sessions"),
        _record(40_402, before(hours=4), "admin", "SetLogLevel", me, None, "OK", "info → debug", 0.2),
        _record(40_407, before(hours=3.9), "admin", "SetLogLevel", me, None, "OK", "debug → info", 0.2),
        _record(
            40_518,
            before(minutes=9),
            "event",
            "token lost",
            "kmsd",
            None,
            "CKR_DEVICE_ERROR",
            "prod-hsm: 3 calls refused",
        ),
        _record(
            40_519,
            before(minutes=8, seconds=55),
            "event",
            "token up",
            "kmsd",
            None,
            "OK",
            "prod-hsm, after 5.1 s, 8 sessions",
        ),
        _record(
            40_530,
            before(minutes=2, seconds=31),
            "admin",
            "DestroyKey",
            other,
            KEYS[2],
            "FAILED_PRECONDITION",
            "the key was used 3 days ago",
            1.4,
        ),
        _record(
            40_531,
            before(minutes=2, seconds=20),
            "admin",
            "GenerateKey",
            me,
            WRITE,
            "OK",
            "k8s-kek.pending on prod-hsm",
            61.0,
        ),
        _record(
            40_532,
            before(minutes=2, seconds=19),
            "admin",
            "RotateKey",
            me,
            WRITE,
            "OK",
            f"{OLD.key_id_sha256[:8]} → {WRITE.key_id_sha256[:8]}",
            148.0,
        ),
        _record(
            40_533,
            before(minutes=2, seconds=19),
            "event",
            "write key",
            "kmsd",
            WRITE,
            "OK",
            f"{OLD.key_id_sha256[:8]} → {WRITE.key_id_sha256[:8]}",
        ),
    ]
    sampled = [
        _record(
            40_534 + at,
            before(seconds=120 - 2 * at),
            "kms",
            "Decrypt" if at % 9 else "Encrypt",
            "kms socket",
            WRITE if at % 3 else OLD,
            "OK",
            "",
            0.4 + at % 7 / 10,
        )
        for at in range(50)
    ]
    return Tail((*shown, *sampled), following=True)
