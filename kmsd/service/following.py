"""The times by which it is known how far kube-apiserver has followed to a write key. Data alone."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Following:
    """The times at which kube-apiserver followed to the key that writes now. Unix times; 0 for what has not happened.

    previous: the key_id that was answered before this one; empty if none is known of.
    """

    key_id: str = ""
    previous: str = ""
    since: float = 0.0
    first_status: float = 0.0
    last_status: float = 0.0
    first_encrypt: float = 0.0
    last_encrypt: float = 0.0

    def status(self, key_id: str) -> None:
        """Note that Status answered this key id."""
        now = self._at(key_id)
        self.last_status = now
        self.first_status = self.first_status or now

    def encrypt(self, key_id: str) -> None:
        """Note that a value was encrypted under this key id."""
        now = self._at(key_id)
        self.last_encrypt = now
        self.first_encrypt = self.first_encrypt or now

    def _at(self, key_id: str) -> float:
        now = time.time()
        if key_id != self.key_id:
            self.previous, self.key_id, self.since = self.key_id, key_id, now
            self.first_status = self.last_status = self.first_encrypt = self.last_encrypt = 0.0
        return now
