"""What is stored in etcd, counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class KeyInEtcd:
    """by_label: the envelope names a label instead of a key id, as the ancestor's data does."""

    key_id: str
    objects: int
    by_label: bool = False


@dataclass(frozen=True)
class ScanReport:
    """What a scan of etcd counted; evidence for retiring a key. prefix: what was read.
    unknown: values that could not be understood, and so may need any key."""

    started: datetime
    finished: datetime
    cluster_id: int
    prefix: str
    revision: int
    objects: int
    unknown: int
    uses: tuple[KeyInEtcd, ...]
