"""The counts of a rewriting, how it stands, and how both read. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from kmsctl.output import Document

NAMES_MOST: Final = 1000
"""Objects of one resource that are kept by name, of each kind."""
SHOWN_MOST: Final = 10


@dataclass
class ResourceTally:
    """The counts of one resource. wanted: objects to be rewritten; None: not known. by: how it is done. unchanged: that
    kube-apiserver held to be current; others: written by somebody else meanwhile; gone: deleted meanwhile. refused:
    names and why. unserved: that etcd has and kube-apiserver does not list; trouble: why all of it ended early.
    instead: why no migration did it, where one was tried."""

    resource: str
    wanted: int | None = None
    by: str = "updates"
    rewritten: int = 0
    unchanged: int = 0
    others: int = 0
    gone: int = 0
    refusals: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    unserved: tuple[str, ...] = ()
    trouble: str = ""
    instead: str = ""

    @property
    def done(self) -> int:
        return self.rewritten + self.unchanged + self.others + self.gone + self.refusals

    @property
    def moved(self) -> bool:
        """Whether another scan of etcd can find fewer objects of this resource under the old key."""
        return self.by == "migration" or bool(self.rewritten or self.others or self.gone)

    def refuse(self, name: str, why: str) -> None:
        """Note an object that kube-apiserver did not write."""
        self.refusals += 1
        if len(self.refused) < NAMES_MOST:
            self.refused[name] = why

    def document(self) -> Document:
        """Return what `-o json` prints of it."""
        return {
            "event": "rewrite",
            "resource": self.resource,
            "by": self.by,
            "wanted": self.wanted,
            "rewritten": self.rewritten,
            "unchanged": self.unchanged,
            "written_by_others": self.others,
            "gone": self.gone,
            "refused": self.refusals,
            "objects_refused": [{"name": name, "reason": why} for name, why in self.refused.items()],
            "objects_not_served": list(self.unserved[:NAMES_MOST]),
            "trouble": self.trouble or None,
            "no_migration": self.instead or None,
        }

    def sentence(self) -> str:
        """Return the counts for people."""
        if self.by == "migration" and not self.trouble:
            return f"{self.resource}: migrated by kube-controller-manager"
        counts = (
            (self.unchanged, "held to be current"),
            (self.others, "written by others meanwhile"),
            (self.gone, "deleted meanwhile"),
            (self.refusals, "refused"),
            (len(self.unserved), "in etcd and not served"),
        )
        parts = [f"{self.rewritten:,} rewritten", *(f"{number:,} {what}" for number, what in counts if number)]
        return f"{self.resource}: {'; '.join(filter(None, (', '.join(parts), self.trouble, self.instead)))}"

    def named(self) -> Iterator[str]:
        """Yield the objects that stay as they were, and why, SHOWN_MOST of each kind at most."""
        shown = list(self.refused.items())[:SHOWN_MOST]
        yield from (f"{self.resource} {name}: {why}" for name, why in shown)
        if self.refusals > len(shown):
            yield f"{self.resource}: and {self.refusals - len(shown):,} more were refused"
        yield from (f"{self.resource} {name}: in etcd, and not served" for name in self.unserved[:SHOWN_MOST])
        if len(self.unserved) > SHOWN_MOST:
            yield f"{self.resource}: and {len(self.unserved) - SHOWN_MOST:,} more that are not served"
