"""Keys, statuses and scans around one rotation, as kmsd and etcd would tell them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kmsd.client import (
    Following,
    Key,
    KeyInEtcd,
    KeyState,
    KeyType,
    Probe,
    ScanReport,
    ServingState,
    Sessions,
    Status,
    Token,
)
from kmsd.client.rotation import KeyTurnover, NodeSighting

NEW_ID = "0192c3a1-77f0-7b1e-9c55-91ab04d70000"
OLD_ID = "0191aaaa-0000-7b1e-9c55-5fd2e1c00000"
MOVED = datetime(2026, 11, 23, 12, 4, 11, tzinfo=UTC)
"""When the labels moved."""
OLD_LABEL = "k8s-kek@20261123T120411Z"


def at(seconds: float) -> datetime:
    """So long after the labels moved."""
    return MOVED + timedelta(seconds=seconds)


def key(label: str, key_id: str, state: KeyState = KeyState.READABLE, created: datetime | None = None) -> Key:
    return Key(
        label=label,
        key_id=key_id,
        key_id_sha256=hashlib.sha256(key_id.encode()).hexdigest() if key_id else "",
        type=KeyType.AES,
        bits=256,
        state=state,
        unusable_reason="",
        unusable_hint="",
        can_encrypt=True,
        can_decrypt=True,
        can_sign=False,
        can_verify=False,
        sensitive=True,
        extractable=False,
        private=True,
        created=created,
        token_label="prod-hsm",
        token="default",
    )


NEW = key("k8s-kek", NEW_ID, KeyState.WRITE, at(-0.5))
OLD = key(OLD_LABEL, OLD_ID, KeyState.READABLE, at(-1e6))
TURN = KeyTurnover("k8s-kek", OLD, NEW, MOVED)


def status(write: Key | None = NEW, following: Following | None = None, started: datetime | None = None) -> Status:
    return Status(
        version="0.1.0",
        state=ServingState.SERVING if write else ServingState.DOWN,
        healthz="ok" if write else "no key with the label k8s-kek",
        hint="",
        started=started or at(-1e6),
        write_label="k8s-kek",
        write_key=write,
        token=Token("m.so", "prod-hsm", "1", "m", "m", 0, True),
        sessions=Sessions(8, 8, 0, 0, 0),
        probe=Probe(at(0), 1.0),
        listeners=(),
        problems=(),
        keys=2,
        write_format="native",
        following=following or Following(previous_key_id=OLD_ID),
    )


def followed(seconds: float = 50.0) -> Following:
    """kube-apiserver has asked, and has encrypted, so long after the move."""
    moment = at(seconds)
    return Following(moment, moment, moment, moment, moment, OLD_ID)


def before() -> Status:
    """Of a node that has not seen the move."""
    return status(replace(OLD, label="k8s-kek", state=KeyState.WRITE), Following(at(-1e5), at(-1e5), at(-20)))


def seen(node: str = "cp-1", found: Status | None = None) -> NodeSighting:
    return NodeSighting(node, found if found is not None else status())


def report(started: datetime, uses: dict[str, int] | None = None, unknown: int = 0, labels: int = 0) -> ScanReport:
    """uses: objects by key id. labels: objects that name the write label."""
    found = [KeyInEtcd(key_id, objects) for key_id, objects in (uses or {}).items()]
    if labels:
        found.append(KeyInEtcd("k8s-kek", labels, by_label=True))
    objects = sum(each.objects for each in found) + unknown
    return ScanReport(started, started + timedelta(seconds=2), 1, "/registry", 7, objects, unknown, tuple(found))
