"""The count of what is stored in etcd."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class KeyInEtcd:
    """A key as stored values name it. by_label: the envelope names a label instead of a key id, as that of
    k8s-kms-plugin does. label: what the encrypted data key calls its key beside a key id, as KeySealer's does; empty if
    it does not."""

    key_id: str
    objects: int
    by_label: bool = False
    label: str = ""


@dataclass(frozen=True)
class ScanReport:
    """The count of what etcd holds; evidence for letting a key go. prefix: what was read. unknown: values that could
    not be understood, and so may need any key."""

    started: datetime
    finished: datetime
    cluster_id: int
    prefix: str
    revision: int
    objects: int
    unknown: int
    uses: tuple[KeyInEtcd, ...]
