"""The only writer of stderr: errors, hints, warnings, progress; and what a failure is worth as an exit code.

Knows nothing of the commands. stdout is `output`'s.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from enum import IntEnum

from kmsctl import terminal
from kmsd.client import ClientError, Conflict, Denied, InvalidRequest, NotFound, Unreachable, escape


class ExitCode(IntEnum):
    """A contract with scripts: a number never changes its meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    UNHEALTHY = 7
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; stderr says why, and whether a retry may help",
    ExitCode.USAGE: "wrong usage, arguments or input: the same command never succeeds",
    ExitCode.UNREACHABLE: "no kmsd answers there; a retry may help",
    ExitCode.DENIED: "no permission on the socket, TLS refused a certificate, or kmsd or the token refused",
    ExitCode.NOT_FOUND: "there is no such key",
    ExitCode.CONFLICT: "the label or key id is taken, or the state of the key or token forbids it",
    ExitCode.UNHEALTHY: "kmsd answers, but health is not ok; or the write keys of targets differ, or a check of doctor "
    "or --check failed",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}


class UsageError(Exception):
    """The command line asks for something that makes no sense. message and hint as in ClientError."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def exit_code(error: ClientError) -> ExitCode:
    """Return what an error of the client is worth as an exit code."""
    match error:
        case InvalidRequest():
            return ExitCode.USAGE
        case Unreachable():
            return ExitCode.UNREACHABLE
        case Denied():
            return ExitCode.DENIED
        case NotFound():
            return ExitCode.NOT_FOUND
        case Conflict():
            return ExitCode.CONFLICT
        case _:
            return ExitCode.FAILED


def error(what: str, hint_text: str = "", *, retryable: bool = False) -> None:
    """Write what failed, what to do about it, and whether a retry may help."""
    _write(f"kmsctl: {_red('error')}: {escape(what)}")
    if hint_text:
        hint(hint_text)
    if retryable:
        _write("retry: the same command may succeed later")


def hint(what: str) -> None:
    """Write what to do."""
    _write(f"hint: {escape(what)}")


def warning(what: str) -> None:
    """Write what is not as it should be, though the command goes on."""
    _write(f"kmsctl: warning: {escape(what)}")


def note(what: str) -> None:
    """Write what is good to know."""
    _write(f"kmsctl: {escape(what)}")


def screed(text: str) -> None:
    """Write text of many lines, as it is: a command's help where a command was missing."""
    _write(text)


def ask(question: str) -> None:
    """Write a question, with the cursor left behind it."""
    _write(escape(question), end="")


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def trace(problem: BaseException) -> None:
    """Write the traceback of an error."""
    _write("".join(traceback.format_exception(problem)).rstrip())


class ProgressLine:
    """A line that is written over again and again; nothing at all unless stderr is a terminal that can."""

    def __init__(self) -> None:
        self._shown = on_terminal() and terminal.movable(sys.stderr)
        self._dirty = False

    def show(self, what: str) -> None:
        """Write the line anew."""
        if self._shown:
            # The line is cut to the terminal: one that wraps could not be taken back.
            _write(f"\r\x1b[K{escape(what)[: terminal.columns(sys.stderr) - 1]}", end="")
            self._dirty = True

    def clear(self) -> None:
        """Take the line back."""
        if self._dirty:
            _write("\r\x1b[K", end="")
            self._dirty = False


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Say, once the block has lasted a moment and while it lasts, what is done, and for how many seconds."""
    progress = ProgressLine()
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(0.5):
            progress.show(f"{what}, {time.monotonic() - started:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        progress.clear()


def _red(text: str) -> str:
    return f"\x1b[1;31m{text}\x1b[0m" if on_terminal() and terminal.colourful(sys.stderr) else text


def _write(text: str, end: str = "\n") -> None:
    if sys.stderr is None:
        return  # it was closed before this program began
    try:
        sys.stderr.write(text + end)
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads stderr any more; the exit code still tells
