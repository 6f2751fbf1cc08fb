"""Match the names of keys in what is stored: which of kmsd's a scan of etcd has found, and which belong to no key.
Pure.

The rule is kmsd's own (`kmsd.keys.lifecycle.evidence`), so that nothing is offered here that kmsd refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kmsd.client.model.keys import Key
from kmsd.client.model.scan import KeyInEtcd, ScanReport
from kmsd.formats.keyid import Names

_FORMER = re.compile(r"(.*?)(\.retired)?@[0-9]{8}T[0-9]{6}Z", re.DOTALL)


def former_label(label: str) -> str:
    """Return the label that a key had while it wrote, from the one that a rotation or retiring gave it; empty for
    others."""
    found = _FORMER.fullmatch(label)
    return found[1] if found else ""


def names_of(*keys: Key) -> Names:
    """Return what stored values may call these keys."""
    return Names.of((key.key_id, (key.label, former_label(key.label))) for key in keys)


def under(report: ScanReport, key: Key) -> int:
    """Return the number of objects that may need a key."""
    names = names_of(key)
    return sum(each.objects for each in report.uses if names.include(each.key_id, each.label))


def strangers(report: ScanReport, keys: Iterable[Key]) -> tuple[KeyInEtcd, ...]:
    """Return what names none of the keys, neither by id nor by label: objects that may need any of them."""
    names = names_of(*keys)
    return tuple(each for each in report.uses if not names.include(each.key_id, each.label))
