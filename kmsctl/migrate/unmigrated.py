"""Counts how much of what etcd holds is still in a foreign format, per provider, and what to do about it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kmsctl import stored
from kmsd.client.rotation import rewrite_command
from kmsd.etcd.resources import nameable, rewritable
from kmsd.etcd.scan import EtcdScan, ScanRow, Storage

COMMANDS_MOST: Final = 5
"""Commands that are told."""


class StoredKind(StrEnum):
    """A kind of stored object, as far as a migration cares."""

    NATIVE = "native"
    K8S_KMS_PLUGIN_GCM = "k8s-kms-plugin aes-gcm"
    K8S_KMS_PLUGIN_CBC = "k8s-kms-plugin aes-cbc"
    KEYSEALER = "keysealer"
    PLAINTEXT = "plaintext"
    OTHER = "other"
    """Values of another provider, or not understood."""

    @property
    def ancestral(self) -> bool:
        return self in (StoredKind.K8S_KMS_PLUGIN_GCM, StoredKind.K8S_KMS_PLUGIN_CBC, StoredKind.KEYSEALER)


@dataclass(frozen=True)
class Group:
    """A group of objects that are alike. Objects alike. storage: several kinds of it are plaintext or other. foreign:
    whether they are to be rewritten. resources: sorted; reason: why they are not understood, if so."""

    kind: StoredKind
    storage: Storage
    provider: str
    objects: int
    resources: tuple[str, ...]
    foreign: bool
    reason: str = ""


@dataclass(frozen=True)
class Leftover:
    """A count of what is still to be moved over."""

    groups: tuple[Group, ...]

    def sum(self, *kinds: StoredKind) -> int:
        """Sum the objects of these kinds."""
        return sum(each.objects for each in self.groups if each.kind in kinds)

    @property
    def foreign(self) -> int:
        return sum(each.objects for each in self.groups if each.foreign)

    @property
    def in_v1(self) -> tuple[str, ...]:
        """The providers of KMS v1 that values in kmsd's own format still name."""
        found = (each for each in self.groups if each.kind is StoredKind.NATIVE and each.storage is Storage.KMS_V1)
        return tuple(sorted({each.provider for each in found}))


def leftover(scan: EtcdScan) -> Leftover:
    """Group what a scan counted. Plain objects are foreign only where others of their resource are encrypted, and
    Secrets."""
    encrypted = set(scan.resources(lambda row: row.storage not in (Storage.PLAINTEXT, Storage.UNKNOWN))) | {"secrets"}
    objects: defaultdict[tuple[bool, StoredKind, Storage, str, str], int] = defaultdict(int)
    resources: defaultdict[tuple[bool, StoredKind, Storage, str, str], set[str]] = defaultdict(set)
    for each in scan.counts:
        row = each.row
        kind = _kind(row)
        foreign = kind is not StoredKind.NATIVE and (kind is not StoredKind.PLAINTEXT or row.resource in encrypted)
        reason = row.reason if kind in (StoredKind.OTHER, StoredKind.NATIVE) else ""
        group = (not foreign, kind, row.storage, row.provider, reason)
        objects[group] += each.objects
        resources[group].add(row.resource)
    groups = (
        Group(kind, storage, provider, objects[key], tuple(sorted(resources[key])), not own, reason)
        for key in sorted(objects, key=_order)
        for own, kind, storage, provider, reason in [key]
    )
    return Leftover(tuple(groups))


def _order(key: tuple[bool, StoredKind, Storage, str, str]) -> tuple[bool, int, str, str, str]:
    own, kind, storage, provider, reason = key
    return own, list(StoredKind).index(kind), storage, provider, reason


def _kind(row: ScanRow) -> StoredKind:
    if row.storage is Storage.PLAINTEXT:
        return StoredKind.PLAINTEXT
    if row.storage.needs_kms and row.format != "":
        return StoredKind(row.format)
    return StoredKind.OTHER


def advice(found: Leftover) -> Iterator[str]:
    """Yield what to do next, a sentence or a command each; of names only such that can stand in a command."""
    if cbc := found.sum(StoredKind.K8S_KMS_PLUGIN_CBC):
        yield (
            f"{'1 object was' if cbc == 1 else f'{cbc:,} objects were'} written by k8s-kms-plugin with aes-cbc, which "
            "protects nothing from being altered: rewrite that first; kmsd reads it only with "
            "legacy.allow_unauthenticated and legacy.key"
        )
    if found.sum(StoredKind.KEYSEALER):
        yield "what KeySealer wrote is read with the HMAC key beside the AES key: name it as keys.hmac_label"
    resources = _resources(found)
    for each in resources[:COMMANDS_MOST]:
        yield f"`{rewrite_command(each)}`"
    if len(resources) > COMMANDS_MOST:
        yield f"and so for {len(resources) - COMMANDS_MOST} more resources"
    if own := stored.own(name for each in found.groups if each.foreign for name in each.resources):
        yield own
    if any(each.reason and not each.kind.ancestral for each in found.groups):
        yield "what is not understood is explained by `etcdctl get KEY -w json | kmsctl inspect --try`"
    if found.foreign:
        yield "keep the providers above in kube-apiserver's file until nothing is left"
    elif found.in_v1:
        named = f" ({', '.join(found.in_v1)})" if all(map(nameable, found.in_v1)) else ""
        yield f"values in kmsd's format are still under KMS v1{named}: rewrite them before it goes"
    elif found.groups:
        yield (
            "drop the providers that no value names from kube-apiserver's file, and [legacy] from kmsd's; backups of "
            "etcd from before still need them"
        )


def _resources(found: Leftover) -> tuple[str, ...]:
    """Return the resources to be rewritten, as kubectl calls them."""
    wanted: Iterable[Group] = (
        each
        for each in found.groups
        if each.foreign or (each.kind is StoredKind.NATIVE and each.storage is Storage.KMS_V1)
    )
    return tuple(sorted({name for each in wanted for name in each.resources if rewritable(name)}))
