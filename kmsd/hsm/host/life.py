"""The life of a host process: it begins, serves, and ends with kmsd or when kmsd says so, whatever the module does."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Final

# Their functions are the operations.
from kmsd.crypto import cbc_hmac, gcm, legacy_cbc, oaep  # noqa: F401
from kmsd.hsm.doctor import probe  # noqa: F401
from kmsd.hsm.host import adoption, importing, keys, signing, tls_signing  # noqa: F401
from kmsd.hsm.host.opening import OpenToken
from kmsd.hsm.host.session import TokenSession  # noqa: F401
from kmsd.hsm.host.workers import Workers

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_DRAIN_SECONDS: Final = 4.0
_FINALIZE_SECONDS: Final = 4.0


class Life:
    """The life of one host process. channel: the way to kmsd."""

    def __init__(self, channel: socket.socket) -> None:
        self._parent = os.getppid()
        self._token = OpenToken()
        self._workers = Workers(channel, self._token, self._end)

    def run(self) -> None:
        """Serve until the end, and end the process."""
        # A terminal and a supervisor send theirs to everybody; whether it is time is for kmsd to say.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminated)
        _die_with_parent()
        # What was imported stays: no collection has to look at it while calls wait.
        gc.collect()
        gc.freeze()
        self._workers.start()
        if os.getppid() != self._parent:
            self._end()
        self._workers.watch()
        clean = self._workers.wait(_DRAIN_SECONDS)
        if clean:
            # C_Finalize may hang as any call may, and crashes some modules while a thread is inside.
            closing = threading.Thread(target=self._token.close, daemon=True)
            closing.start()
            closing.join(_FINALIZE_SECONDS)
        os._exit(0)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        if os.getppid() != self._parent:
            self._end()

    def _end(self) -> None:
        self._workers.stop()


def _die_with_parent() -> None:
    """Get SIGTERM when kmsd ends (prctl(2)), and leave no core dump, which would hold plaintexts and the PIN."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
