"""Remember what other programs were seen to do to the audit, until somebody acknowledges it.

It is kept nowhere but in the chain itself: a file beside it could be removed without a trace. So kmsd reads it there
when it starts, and says it once more in each new file, for the old ones are deleted by plan.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from kmsd.audit.chain import Record
from kmsd.audit.file import DISTURBED
from kmsd.audit.writer import LOST, WriteFailure

ACKNOWLEDGE: Final = "AcknowledgeAudit"
"""The admin action that acknowledges what was seen; its method has the same name."""
WORDS: Final = (f'"action":"{DISTURBED}"'.encode(), f'"action":"{ACKNOWLEDGE}"'.encode())
"""Words of which one is in the line of every record that `saw` wants to see."""
_KEPT: Final = 20
_UP_TO: Final = re.compile(r"up to record ([0-9]{1,19})")
_AGAIN: Final = "not acknowledged yet: "


@dataclass(frozen=True)
class SeenTampering:
    """A change that another program made to the audit. seq: of the record that tells it. text: what was seen, and
    when."""

    unix_ms: int
    seq: int
    text: str


def acknowledgement(seen: Sequence[SeenTampering]) -> str:
    """Return what the record of an acknowledgement of these has to say: what comes after them is not acknowledged."""
    return f"up to record {seen[-1].seq}"


class Tampering:
    """The changes by other programs that nobody has acknowledged. times: how often something was seen. seen: the last
    of it, oldest first. begun_ms: when the first was seen."""

    def __init__(self) -> None:
        self.times = 0
        self.seen: deque[SeenTampering] = deque(maxlen=_KEPT)
        self.begun_ms = 0
        self._acknowledged = 0

    def saw(self, record: Record) -> None:
        """Take note of a record of the chain, in the order of the chain; most say nothing of this."""
        if record.kind == "admin" and record.action == ACKNOWLEDGE and record.outcome == "OK" and record.intact:
            if match := _UP_TO.fullmatch(record.detail):
                self._forget(int(match[1]))
        elif record.action == DISTURBED and record.outcome == LOST and record.seq > self._acknowledged:
            again = record.detail.startswith(_AGAIN)
            if again and self.seen:
                # This record repeats what is known already, in a file that is kept for longer.
                self.seen[-1] = replace(self.seen[-1], seq=record.seq)
                return
            text = record.detail.removeprefix(_AGAIN) if again else f"{record.detail}, seen {_time(record.unix_ms)}"
            self.times += 1
            self.begun_ms = self.begun_ms or record.unix_ms
            self.seen.append(SeenTampering(record.unix_ms, record.seq, text))

    def up_to(self, seq: int) -> list[SeenTampering]:
        """Return what the records up to this one tell; 0: all of them."""
        return [each for each in self.seen if not seq or each.seq <= seq]

    def again(self) -> str:
        """Return what a new file says of the earlier ones; empty if there is nothing."""
        return f"{_AGAIN}{self._summary()}" if self.seen else ""

    @property
    def trouble(self) -> WriteFailure | None:
        if not self.seen:
            return None
        return WriteFailure(
            f"the audit was tampered with: {self._summary()}",
            "find out who did it, and compare the files with copies kept elsewhere; then: kmsctl audit acknowledge",
        )

    def _summary(self) -> str:
        last = self.seen[-1].text
        return last if self.times == 1 else f"{self.times} times since {_time(self.begun_ms)}, the last: {last}"

    def _forget(self, seq: int) -> None:
        self._acknowledged = max(self._acknowledged, seq)
        while self.seen and self.seen[0].seq <= seq:
            self.seen.popleft()
        self.times = len(self.seen)
        self.begun_ms = self.seen[0].unix_ms if self.seen else 0


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
