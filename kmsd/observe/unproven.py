"""Count what was encrypted since a round trip last showed that the token works: if the next one shows that it does not,
this may be lost. Knows key ids and numbers."""

from __future__ import annotations

import time
from collections import Counter


class Unproven:
    """The values that no round trip vouches for yet. counts: values encrypted, by key id. since: when the last round
    trip that was right began, in Unix seconds; the start of kmsd if there was none."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.since = time.time()
        self._meanwhile: Counter[str] = Counter()
        self._began = self.since

    def encrypted(self, key_id: str) -> None:
        """Count a value that was encrypted under this key, and is about to be answered."""
        self.counts[key_id] += 1
        self._meanwhile[key_id] += 1

    def begin(self) -> None:
        """Note that a round trip begins. It says nothing of what is answered from now on."""
        self._meanwhile = Counter()
        self._began = time.time()

    def proven(self) -> None:
        """Forget what was encrypted before the round trip that began last: it gave the right result."""
        self.counts, self.since = self._meanwhile, self._began
        self._meanwhile = Counter(self.counts)
