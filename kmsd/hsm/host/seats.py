"""The sessions that serve calls, one for each thread of `kmsd.hsm.host.workers`: how many there are, and new ones.

A session does one operation at a time (PKCS#11 3.0, 2.6). How many are worth having is for kmsd to say
(`kmsd.hsm.sizing`); how many the token has is found out here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import info
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.operation import Operation, operation

_NO_SESSION: Final = "CKR_SESSION_COUNT"
_SPARE: Final = 1
"""Sessions that growth leaves to the token: keys are changed in one of their own."""


@dataclass(frozen=True)
class Resized:
    """The sessions after a change of their number. sessions: how many serve. refused: why there are not as many as were
    asked for, as "CKR_SESSION_COUNT"."""

    sessions: int
    refused: str


class Seat:
    """A session, and the thread that works with it.

    session: None before the login, while it is given up, and after the end. inside: held by whoever uses the session,
    or takes it away. closed: it serves no more.
    """

    __slots__ = ("closed", "inside", "session", "thread")

    def __init__(self, session: TokenSession | None = None) -> None:
        self.session = session
        self.inside = threading.Lock()
        self.closed = False
        self.thread: threading.Thread | None = None


class Seats:
    """The sessions that serve. At first there is one seat without a session, for what needs none."""

    def __init__(self, token: OpenToken) -> None:
        self.all = [Seat()]
        self._token = token
        self._changing = threading.Lock()

    def begin(self) -> None:
        """Take the sessions that the login has opened."""
        first, *others = self._token.sessions
        with self._changing:
            self.all[0].session = first
            self.all.extend(map(Seat, others))

    @operation(Operation.SET_SESSIONS, alone=True)
    def resize(self, wanted: int) -> Resized:
        """Have so many sessions serve, at least one. What the token refuses is told, and leaves it a session to spare.
        Raises CkrError only for what closing nothing would mend."""
        with self._changing:
            before = len(self.all)
            refused = ""
            while len(self.all) < wanted and not refused:
                refused = self._opened()
            if refused and len(self.all) > before:
                self._end(self.all.pop())
            while len(self.all) > max(wanted, 1):
                self._end(self.all.pop())
            return Resized(len(self.all), refused)

    def _opened(self) -> str:
        """Open one more session. Returns why not, if so."""
        if self._token.only is not None:
            return _NO_SESSION
        try:
            _, counts = info.token_view(self._token.module.cryptoki.table, self._token.found.slot_id)
            if counts.most and counts.open and counts.most - counts.open < _SPARE:
                return _NO_SESSION
            self.all.append(Seat(self._token.session()))
        except CkrError as error:
            return error.name
        return ""

    def _end(self, seat: Seat) -> None:
        """Close a seat once its operation has ended. Its thread ends when it looks for more to do."""
        with seat.inside:
            seat.closed = True
            self.close(seat)

    def close(self, seat: Seat) -> None:
        """Close the session of a seat; whoever calls is inside. The token's only session stays: it holds the login."""
        session, seat.session = seat.session, None
        if session is not None and session is not self._token.only:
            _close(session)

    def forget(self, gone: frozenset[bytes]) -> None:
        """Drop the handles of keys that have changed, in all sessions."""
        for seat in tuple(self.all):
            # A single operation on a dict, atomic under the interpreter lock; a look-up in flight just repeats itself.
            if seat.session is not None:
                seat.session.forget(gone)

    def session_of(self, seat: Seat) -> TokenSession:
        """Return the session of a seat, opened if it was given up. Whoever calls is inside. Raises CkrError."""
        if seat.session is None:
            seat.session = self._token.session()
        return seat.session

    def replace(self, seat: Seat) -> None:
        """Open a new session for a seat: after a failed operation the old one may be left in the middle of it. Whoever
        calls is inside. Raises CkrError."""
        if seat.session is None or seat.session is self._token.only:
            # The only session holds the login: kmsd has to start another host.
            return
        self.close(seat)
        seat.session = self._token.session()

    @contextlib.contextmanager
    def writable(self) -> Iterator[TokenSession]:
        """Open a read-write session. If there are few sessions a seat gives up its own for as long. Raises CkrError."""
        if self._token.only is not None:
            with self.all[0].inside:
                yield self._token.only
            return
        with contextlib.ExitStack() as stack:
            try:
                session = self._token.session(rw=True)
            except CkrError as error:
                if error.name != _NO_SESSION:
                    raise
                seat = self.all[-1]
                stack.enter_context(seat.inside)
                self.close(seat)
                session = self._token.session(rw=True)
            stack.callback(_close, session)
            yield session


def _close(session: TokenSession) -> None:
    with contextlib.suppress(CkrError):
        session.close()
