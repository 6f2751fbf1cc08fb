"""The last events, from the audit and from what kmstui saw itself, newest first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from kmsd.client import AuditRecord, escape
from kmstui import styles
from kmstui.styles import Look
from kmstui.text import short_hash
from kmstui.view import ObservedChange, View


@dataclass(frozen=True)
class Happening:
    """An event in the list of what happened last. who: on whose behalf; empty if nobody's. All texts are escaped."""

    time: datetime
    look: Look
    action: str
    key_hash: str
    text: str
    who: str


def happenings(view: View, most: int) -> tuple[Happening, ...]:
    """Return the admin actions of the audit: calls of the KMS APIs have a screen of their own."""
    found = [*islice(_from_audit(view), most), *(_from_sighting(each) for each in view.sightings)]
    return tuple(sorted(found, key=lambda each: each.time, reverse=True)[:most])


def _from_audit(view: View) -> Iterator[Happening]:
    """Yield what happened, the newest first."""
    for numbered in reversed(view.audit.items):
        record = numbered.item
        if record.kind != "kms" and record.time is not None:
            yield Happening(
                record.time,
                styles.outcome(record.outcome),
                escape(record.action),
                short_hash(record.key_id_sha256) if record.key_id_sha256 else "",
                escape(": ".join(filter(None, (record.tenant, record.detail)))),
                person(record),
            )


def _from_sighting(seen: ObservedChange) -> Happening:
    look = styles.Look("✕", "", styles.Colour.BAD) if seen.bad else styles.Look("◦", "", styles.Colour.PLAIN)
    return Happening(seen.time, look, seen.action, "", seen.text, "seen here")


def person(record: AuditRecord) -> str:
    """Return the user of "kmsctl uid=0 user=root", which kmsd has from the kernel."""
    words = dict(word.split("=", 1) for word in record.caller.split() if "=" in word)
    return escape(words.get("user") or record.caller)
