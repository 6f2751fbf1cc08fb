"""The terminal that kmstui draws on: what is written to it arrives whole, and kmstui ends when it is gone."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from textual.app import App

from kmstui.textual_compat import OutputDriver

HUNG_UP = 128 + signal.SIGHUP
"""Exit code once the terminal is gone, by a signal or without one."""
PATIENCE = 3.0
"""Seconds that the program has to end by itself once its terminal is gone."""


def there() -> bool:
    """Return whether there is a terminal to draw on and to read keys from."""
    # Either is None where it was closed before kmstui began.
    both = all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stdout__))
    return both and os.environ.get("TERM") != "dumb"


class Output(io.TextIOWrapper):
    """An output to stdout that arrives whole, and says once that nothing arrives there any more.

    It buffers of its own where Python was told not to (PYTHONUNBUFFERED, as in many container images): unbuffered, what
    is left of a write that a signal has cut short is lost, and with it half a screen when the terminal is slow and its
    window changes its size. gone: called from whichever thread writes.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        stdout = sys.__stdout__
        assert stdout is not None  # noqa: S101 - looked at by `there`
        raw = io.FileIO(stdout.fileno(), "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding=stdout.encoding, errors="backslashreplace")
        self._say_gone = gone
        self._lost = False

    def write(self, text: str) -> int:
        """Write, unless the terminal is gone."""
        try:
            return len(text) if self._lost else super().write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        """Flush, unless the terminal is gone."""
        try:
            if not self._lost:
                super().flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        self._lost = True
        self._say_gone()


class Terminal(OutputDriver):
    """The driver whose terminal's end, SIGHUP and SIGTERM end the program.

    A terminal that is gone tells nobody who does not ask: reads give the end of the file for ever, SIGHUP may be
    ignored (nohup) or never sent (no controlling terminal). A thread that waits for a hangup costs nothing.
    """

    def __init__(self, app: App[Any], **given: Any) -> None:
        self._output = Output(self._gone)
        super().__init__(app, self._output, **given)
        self._watched = False

    def start_application_mode(self) -> None:
        """Take over the terminal, and watch it from then on."""
        super().start_application_mode()  # type: ignore[no-untyped-call]  # Textual's
        if self._watched:
            return  # back from Ctrl+Z
        self._watched = True
        threading.Thread(target=self._watch, name="terminal", daemon=True).start()
        for number in (signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._signalled)

    def run_input_thread(self) -> None:
        """Read keys until the terminal is gone."""
        try:
            super().run_input_thread()
        except OSError:
            self._gone()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """End with the terminal left as it was found. The second signal ends the program as it stands."""
        signal.signal(number, signal.SIG_DFL)
        self.leave(128 + number)

    def _watch(self) -> None:
        waiting = select.poll()
        for descriptor in (self.fileno, self._output.fileno()):
            waiting.register(descriptor, 0)
        waiting.poll()  # hangups and errors are told without being asked for
        self._gone()
        time.sleep(PATIENCE)
        os._exit(HUNG_UP)

    def _gone(self) -> None:
        self.leave(HUNG_UP)
