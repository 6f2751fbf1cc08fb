"""Check that an EncryptionConfiguration reads all that etcd holds: the name of a provider is in every value that it
wrote, so that a provider that was renamed, or dropped too early, leaves values that nobody can read. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from kmsctl.kubernetes.encryption_rules import Provider, Reading
from kmsctl.kubernetes.findings import NodeCheck, Outcome
from kmsd.etcd.scan import EtcdScan, ScanRow, Storage

SHOWN_MOST: Final = 20
"""Kinds of values without a reader that are told, each in a check of its own."""
_APIS: Final = {Storage.KMS_V1: "v1", Storage.KMS_V2: "v2"}


def kept(reading: Reading, scan: EtcdScan) -> Iterator[NodeCheck]:
    """Check each kind of stored value against the providers of its resource."""
    name, title = "stored", "what etcd holds"
    lost: Counter[tuple[str, str, str]] = Counter()
    plain: Counter[str] = Counter()
    for count in scan.counts:
        row, providers = count.row, _providers(reading, count.row.resource)
        if row.storage in _APIS:
            if not _reads(providers, row):
                lost[row.provider, _APIS[row.storage], row.resource] += count.objects
        elif row.storage is Storage.PLAINTEXT and providers and all(each.kind != "identity" for each in providers):
            plain[row.resource] += count.objects
    for (provider, api, resource), objects in sorted(lost.items())[:SHOWN_MOST]:
        seen = f"{objects:,} of {resource} begin with k8s:enc:kms:{api}:{provider}:, and no provider there reads them"
        fix = f"name a kms provider {provider!r} of {api} for {resource} behind the first, until they are rewritten"
        yield NodeCheck(name, title, Outcome.FAILED, seen, fix)
    for resource, objects in sorted(plain.items())[:SHOWN_MOST]:
        seen = f"{objects:,} of {resource} are plain, and the file has no `identity` for them: they cannot be read"
        fix = f"add `- identity: {{}}` as the last provider, rewrite {resource}, and take it out again"
        yield NodeCheck(name, title, Outcome.FAILED, seen, fix)
    if not lost and not plain:
        yield NodeCheck(name, title, Outcome.OK, f"{scan.objects:,} objects: the file has a reader for each")


def _providers(reading: Reading, resource: str) -> tuple[Provider, ...]:
    """Return who may read a stored resource. Its key in etcd names no group for what is built in: where no rule is for
    the name as it stands, those for it in any group count, and else all patterns."""
    if found := reading.of(resource):
        return found
    names = {resource}, {"*"}
    for wanted in names:
        rules = [each for each in reading.rules if wanted & {name.partition(".")[0] for name in each.resources}]
        if rules:
            return tuple(each for rule in rules for each in rule.providers)
    return ()


def _reads(providers: tuple[Provider, ...], row: ScanRow) -> bool:
    return any(each.kind == "kms" and (each.name, each.api) == (row.provider, _APIS[row.storage]) for each in providers)
