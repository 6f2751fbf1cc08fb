"""A terminal taken over for a while and given back as it was: the alternate screen, single keys, resizing.

Knows nothing of what is shown. stdout is written through `output`, which stays its only writer.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from kmsctl import files, output
from kmsctl.output import Span

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"
# A terminal that knows synchronized updates shows a frame whole; the others ignore the two marks.
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"


class Screen:
    """The terminal of this process, while it is taken. Made by `take`."""

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._keyboard = files.keyboard()
        self._modes = None if self._keyboard is None else termios.tcgetattr(self._keyboard)
        self._writing = False
        self._stopping = False
        self._to_stop = False

    def enter(self) -> None:
        """Take over the screen."""
        if self._keyboard is not None:
            tty.setcbreak(self._keyboard)  # keys at once and unseen; Ctrl-C and Ctrl-Z still mean what they mean
        self._emit(_ENTER)

    def leave(self) -> None:
        """Give the screen back."""
        with contextlib.suppress(OSError):  # a terminal that is gone needs nothing restored
            self._emit(_LEAVE)
        if self._keyboard is not None and self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)

    def stop(self) -> None:
        """Give the screen back and stop this process until somebody continues it; once it is written, if a signal
        breaks into the writing of something."""
        if self._stopping:
            return
        if self._writing:
            self._to_stop = True
            return
        self._to_stop, self._stopping = False, True
        self.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)  # from here on it goes on again
        self.enter()
        self._stopping = False

    def _emit(self, text: str) -> None:
        self._writing = True
        try:
            output.emit_raw(text)
        finally:
            self._writing = False
        if self._to_stop:
            self.stop()

    def size(self) -> os.terminal_size:
        """Return the columns and lines of the screen."""
        return output.size()

    def draw(self, lines: Sequence[Sequence[Span]]) -> None:
        """Draw the whole screen in one piece, without clearing it first: what stays the same does not flicker."""
        columns, rows = self.size()
        shown = [output.painted(line, columns) + "\x1b[K" for line in lines[:rows]]
        self._emit(_BEGIN + "\r\n".join(shown) + _END)

    def wait(self, seconds: float) -> str:
        """Wait until a key is pressed, the size changes, `wake` is called, or so long. Return the keys that were
        pressed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if self._keyboard is not None:
                selector.register(self._keyboard, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._keyboard in ready and self._keyboard is not None:
            typed = os.read(self._keyboard, 64)
            if not typed:
                self._keyboard = None  # the terminal has hung up
            return typed.decode(errors="replace")
        return ""


@contextlib.contextmanager
def take() -> Iterator[tuple[Screen, Callable[[], None]]]:
    """Yield the screen, and a function that ends its `wait` from any thread. The terminal is restored at the end, also
    when a signal ends the program or stops it for a while."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()
    lock = threading.RLock()  # a signal's handler may interrupt the wake that holds it

    def wake() -> None:
        with lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            if not over.is_set():
                os.write(writer, b".")

    screen = Screen(reader)

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def resized(number: int, frame: FrameType | None) -> None:
        wake()

    def stop(number: int, frame: FrameType | None) -> None:
        screen.stop()
        wake()

    handlers = {signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGWINCH: resized, signal.SIGTSTP: stop}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        screen.enter()
        yield screen, wake
    finally:
        screen.leave()
        for number, handler in before.items():
            signal.signal(number, handler)
        with lock:
            over.set()
            os.close(writer)
            os.close(reader)
