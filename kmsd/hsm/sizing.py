"""The number of sessions worth having on a token: more while calls wait and more make it faster, fewer after rest.

Their number is doubled, and kept if that made the token faster: one that does one thing at a time is as fast with four
sessions as with thirty, and calls that wait inside it are in nobody's order. What brought nothing, or was refused by
the token, is taken back, remembered, and tried again after a while. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

SLOW_SECONDS: Final = 0.0005
"""A token that takes less for an operation is served by one thread (`kmsd.hsm.host.workers`)."""
_WINDOW_SECONDS: Final = 0.1
_WINDOW_ANSWERS: Final = 4
"""The least time, and the least number of answers for each session, over which the rate of a token is measured. That is
not the rate of the answers, which also depends on the callers and on whatever else runs on the machine."""
_MOSTLY: Final = 0.75
"""The part of the answers in a measurement that must have come while all sessions were at work, or while calls waited.
It is not all of them, because callers take a moment to ask for more."""
_GAIN: Final = 0.15
"""The part of the ideal gain that more sessions must have brought to be kept: with twice as many the token must have
become 1.15 times as fast, where twice as fast is ideal."""
_REMEMBERED_SECONDS: Final = 60.0
"""The time in which what brought nothing, or was refused, is not tried again."""
_REST_SECONDS: Final = 10.0
"""The time in which half of the sessions would have done, and after which half of them are closed."""


class Sizing:
    """The number of sessions of one token.

    least: sessions that a login opens. most: bound. ask: asks the host for so many; `resized` tells what came of it.
    sessions: how many serve now. refused: what the token said when it had no more, "CKR_SESSION_COUNT"; empty if it has
    not said so lately.
    """

    def __init__(
        self, least: int, most: int, ask: Callable[[int], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self.least = least
        self.most = most
        self.sessions = 0
        self._ask = ask
        self._clock = clock
        self._said = ""
        self._bound, self._bound_until = most, 0.0
        self._asked = False
        self._before = 0
        """The number before they became more, until that was judged; then 0."""
        self._rate = 0.0
        """The operations that the sessions can do in a second, by the time that each took."""
        self._answers, self._busy, self._waited, self._took = 0, 0, 0, 0.0
        self._since, self._last = 0.0, 0.0
        self._peak, self._peak_since = 0, 0.0

    @property
    def refused(self) -> str:
        return self._said if self._clock() < self._bound_until else ""

    def begin(self, sessions: int, *, alone: bool) -> None:
        """Begin anew with another host, and so many sessions. alone: it takes one call at a time, and stays at one."""
        now = self._clock()
        self.sessions = sessions
        self._asked, self._before = alone, 0
        self._since = 0.0
        self._peak, self._peak_since = 0, now

    def answered(self, took: Sequence[float], inside: int, seconds: float, *, waiting: bool) -> None:
        """Note answers that came together. took: seconds of each on the token. inside: calls that were with the host.
        seconds: that an operation is believed to take. waiting: whether there are more calls than sessions."""
        self._peak = max(self._peak, inside)
        if self._asked or self.least == self.most:
            return
        now = self._clock()
        silent, self._last = now - self._last, now
        if seconds < SLOW_SECONDS or silent > _WINDOW_SECONDS + _WINDOW_ANSWERS * seconds or not self._since:
            self._answers, self._busy, self._waited, self._took, self._since = 0, 0, 0, 0.0, now
            return
        self._answers += len(took)
        self._took += sum(took)
        self._busy += len(took) if inside >= self.sessions else 0
        self._waited += len(took) if waiting else 0
        answers = self._answers
        if now - self._since < _WINDOW_SECONDS or answers < _WINDOW_ANSWERS * self.sessions:
            return
        self._since = 0.0
        if self._busy < _MOSTLY * answers:
            return
        rate = self.sessions * answers / self._took
        before, self._before = self._before, 0
        if before and rate < self._rate * (1.0 + _GAIN * (self.sessions / before - 1.0)):
            self._remember(before, "")
            self._resize(before)
            return
        self._rate = rate
        wanted = min(self.sessions * 2, self._bound if now < self._bound_until else self.most)
        if wanted > self.sessions and self._waited >= _MOSTLY * answers:
            self._before = self.sessions
            self._resize(wanted)

    def resized(self, sessions: int, refused: str) -> None:
        """Note that the host has so many sessions now. refused: why not as many as were asked for."""
        self._asked = False
        self.sessions = sessions
        self._since = 0.0
        self._peak_since = self._clock()
        if refused:
            self._remember(sessions, refused)
        if sessions <= self._before:
            self._before = 0

    def rest(self) -> None:
        """Let go of sessions that were not needed lately. To be called now and then."""
        now = self._clock()
        if self._asked or self.sessions <= self.least or now - self._peak_since < _REST_SECONDS:
            return
        half, peak = max(self.least, self.sessions // 2), self._peak
        self._peak, self._peak_since = 0, now
        if peak <= half:
            self._before = 0
            self._resize(half)

    def _resize(self, wanted: int) -> None:
        self._asked = True
        self._ask(wanted)

    def _remember(self, bound: int, said: str) -> None:
        self._bound, self._bound_until = bound, self._clock() + _REMEMBERED_SECONDS
        self._said = said
