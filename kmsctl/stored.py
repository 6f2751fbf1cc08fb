"""The counts of a scan of etcd, and how they read. Knows no command; shows no value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kmsctl import diagnostics, output
from kmsctl.etcdplace import EtcdPlace
from kmsctl.output import Document
from kmsctl.text import timestamp
from kmsd.client import Key
from kmsd.client.names import names_of
from kmsd.client.rotation import rewrite_command

if TYPE_CHECKING:
    from kmsd.etcd.scan import Count, EtcdScan, NamedObject, ScanProgress, ScanRow
    from kmsd.formats.keyid import Names

COMMANDS_MOST = 5
"""Commands that a hint names."""


def read(place: EtcdPlace, timeout: float, show: int = 0, write_key: Key | None = None) -> EtcdScan:
    """Count all that is there, telling how far it has got. timeout: seconds for each call. show: how many objects are
    wanted by name, of those that `needing` picks. Raises ClientError."""
    from kmsd.etcd.scan import ScanOptions, scan

    progress = diagnostics.ProgressLine()
    linearizable = False
    try:
        with place.connect(timeout) as etcd:
            wanted = ScanOptions(show, needing(write_key))
            found = scan(etcd, place.prefix, lambda so_far: progress.show(progress_text(so_far)), wanted)
            linearizable = etcd.linearizable
    finally:
        progress.clear()
    if linearizable:
        diagnostics.note("what answers has no serializable reads, as kine has none: read with linearizable ones")
    return found


def needing(write_key: Key | None) -> Callable[[ScanRow], bool]:
    """Return what picks the objects that need looking at: not understood, or under a KMS key that does not write."""

    stale = elsewhere(write_key) if write_key is not None else lambda _: False
    return lambda row: row.needs_unknown_key or stale(row)


def elsewhere(write_key: Key) -> Callable[[ScanRow], bool]:
    """Return what picks the objects that a KMS wrote under another key than this one, also under one that is gone."""
    return lambda row: row.storage.needs_kms and not row.is_under(write_key.key_id)


def shown_lines(scan: EtcdScan) -> list[str]:
    """Return one line for each object that was wanted by name."""
    return [f"{each.key}: {each.row.reason or f'needs {each.row.key}'}" for each in scan.shown]


def progress_text(progress: ScanProgress) -> str:
    """Return how far a scan is."""
    again = f", begun again ({progress.starts})" if progress.starts > 1 else ""
    return f"reading etcd: {progress.objects:,} of {progress.expected:,} objects{again}"


def document(scan: EtcdScan, write_key: Key | None) -> Document:
    """Return what `-o json` prints of a scan. write_key: None if it is not known."""
    return {
        "prefix": scan.prefix,
        "cluster_id": f"{scan.cluster_id:016x}",
        "revision": scan.revision,
        "started_at": timestamp(scan.started),
        "finished_at": timestamp(scan.finished),
        "starts": scan.starts,
        "objects": scan.objects,
        "plaintext": scan.plaintext,
        "unknown": scan.unknown,
        "write_key_id": None if write_key is None else write_key.key_id,
        "under_write_key": None if write_key is None else scan.under(write_key.key_id),
        "counts": [_count(each) for each in scan.counts],
        "shown": list(map(shown_document, scan.shown)),
    }


def shown_document(shown: NamedObject) -> Document:
    """Return one object that was wanted by name. key: in etcd."""
    return {"key": shown.key, **_row(shown.row)}


def _count(count: Count) -> Document:
    return {**_row(count.row), "objects": count.objects}


def _row(row: ScanRow) -> Document:
    key_id = "" if row.by_label else row.key
    return {
        "resource": row.resource,
        "storage": row.storage.value,
        "provider": row.provider or None,
        "key_id": key_id or None,
        "key_id_sha256": _sha256(key_id) or None,
        "label": (row.key if row.by_label else row.label) or None,
        "format": row.format or None,
        "reason": row.reason or None,
    }


def names(scan: EtcdScan) -> Iterable[str]:
    """Return key ids and labels that something needs, each once."""
    return sorted({each.row.key for each in scan.counts if each.row.key})


def table(scan: EtcdScan, write_key: Key | None, keys: Sequence[Key], *, wide: bool) -> str:
    """Return rows per provider, kind of storage, resource and key. Not wide: what is not encrypted in one row, but for
    the resources that are encrypted elsewhere, and for secrets. keys: all of kmsd's; none if they are not known."""
    headers = ["RESOURCE", "STORED AS", "PROVIDER", "KEY", "SHA256", "OBJECTS", "NOTE"]
    shown, rest = (list(scan.counts), []) if wide else _collapse(scan.counts)
    known = names_of(*keys) if keys else None
    rows = [_cells(each, write_key, known, wide=wide) for each in shown]
    if rest:
        objects = sum(each.objects for each in rest)
        what = "1 other resource" if len(rest) == 1 else f"{len(rest)} other resources"
        rows.append([f"({what})", "plaintext", "", "", "", f"{objects}", ""])
    if wide:
        headers.insert(3, "FORMAT")
        for row, each in zip(rows, shown, strict=True):
            row.insert(3, each.row.format)
    at = headers.index("OBJECTS")
    widest = max([len(headers[at]), *(len(row[at]) for row in rows)])
    headers[at] = headers[at].rjust(widest)
    for row in rows:
        row[at] = row[at].rjust(widest)
    return output.table(headers, rows) if rows else ""


def _collapse(counts: Sequence[Count]) -> tuple[list[Count], list[Count]]:
    from kmsd.etcd.scan import Storage

    encrypted = {each.row.resource for each in counts if each.row.storage is not Storage.PLAINTEXT} | {"secrets"}
    shown = [each for each in counts if each.row.resource in encrypted]
    return shown, [each for each in counts if each.row.resource not in encrypted]


def _cells(count: Count, write_key: Key | None, known: Names | None, *, wide: bool) -> list[str]:
    row = count.row
    digest = "" if row.by_label else _sha256(row.key)
    return [
        row.resource,
        row.storage.value,
        row.provider,
        row.key,
        f"sha256:{digest if wide else digest[:8]}" if digest else "",
        str(count.objects),
        row.reason or _role(row, write_key, known),
    ]


def _role(row: ScanRow, write_key: Key | None, known: Names | None) -> str:
    if row.key and known is not None and not row.may_need(known):
        return f"no key has this {'label' if row.by_label else 'id'}"
    if row.by_label:
        return "a label"
    if write_key is None or not row.key:
        return ""
    return "the write key" if row.is_under(write_key.key_id) else "another key"


def _sha256(key_id: str) -> str:
    import hashlib

    return hashlib.sha256(key_id.encode()).hexdigest() if key_id else ""


def summary(scan: EtcdScan, write_key: Key | None) -> str:
    """Return what was counted, in a sentence."""
    parts = [_objects(scan.objects)]
    if write_key is not None:
        parts.append(f"{scan.under(write_key.key_id):,} under the present write key")
    parts.append(f"{scan.plaintext:,} plaintext")
    if scan.unknown:
        parts.append(f"{scan.unknown:,} not understood")
    return ", ".join(parts)


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number:,} objects"


def to_rewrite(scan: EtcdScan, write_key: Key) -> tuple[str, ...]:
    """Return the resources with objects under another key, or under none that is known, as kubectl calls them; only
    such that can stand in a command."""
    from kmsd.etcd.resources import rewritable

    found = scan.resources(lambda row: row.storage.needs_kms and not row.is_under(write_key.key_id))
    return tuple(filter(rewritable, found))


def writes_v1(scan: EtcdScan, write_key: Key) -> bool:
    """Return whether objects are stored by KMS v1 under the present write key, as kube-apiserver then writes them."""
    from kmsd.etcd.scan import Storage

    return scan.sum(lambda row: row.storage is Storage.KMS_V1 and row.is_under(write_key.key_id)) > 0


def own(resources: Iterable[str]) -> str:
    """Return what to say of what kubectl does not see among these: what kube-apiserver keeps for itself, and what no
    API serves any more; empty if there is nothing of it."""
    from kmsd.etcd.resources import GONE, OWN

    resources = set(resources)
    parts = []
    if found := sorted(OWN & resources):
        parts.append(
            f"{', '.join(found)}: kube-apiserver's own records, which kubectl does not see, and kube-apiserver writes "
            "anew by itself within minutes; what stays was left by one that is gone, or by an earlier release"
        )
    if found := sorted(GONE & resources):
        parts.append(
            f"{', '.join(found)}: Kubernetes serves them no more since 1.25, so kubectl cannot rewrite them and "
            "nothing reads them; delete them in etcd (etcdctl del --prefix) once nobody wants them back"
        )
    return "; ".join(parts)


def rewrite_hint(resources: Sequence[str]) -> str:
    """Return the hint that rewrites these resources."""
    commands = "; ".join(f"`{rewrite_command(each)}`" for each in resources[:COMMANDS_MOST])
    more = f"; and so for {len(resources) - COMMANDS_MOST} more" if len(resources) > COMMANDS_MOST else ""
    return f"what other keys wrote is written anew by {commands}{more}"


def still_under(scan: EtcdScan, old: Key) -> tuple[str, ...]:
    """Return the resources with objects that may need this key, as kubectl calls them; only such that can stand in a
    command."""
    from kmsd.etcd.resources import rewritable

    return tuple(filter(rewritable, scan.resources(under(old))))


def under(old: Key) -> Callable[[ScanRow], bool]:
    """Return what picks the objects that a KMS wrote and that may need this key."""
    names = names_of(old)
    return lambda row: row.storage.needs_kms and row.may_need(names)


def keeping(old: Key) -> Callable[[ScanRow], bool]:
    """Return what picks the objects for which this key has to be kept: they may need it, or are not understood."""
    needs_it = under(old)
    return lambda row: row.needs_unknown_key or needs_it(row)
