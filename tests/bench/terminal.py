"""kmstui in a pseudo terminal: what it costs, and how long a key press takes to show."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.tokens import clean_environment

KMSTUI = str(Path(sys.executable).with_name("kmstui"))
_ESCAPES = re.compile(r"\x1b\[[0-9;?<=>]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b.")

Seen = Callable[[str], bool]


def has(*texts: str) -> Seen:
    return lambda written: all(text in written for text in texts)


@dataclass(frozen=True)
class Lag:
    """Seconds. queued: those of them in which kmstui could have run, had it had a processor."""

    seconds: float
    queued: float


class Program:
    """kmstui in a terminal of 160x50 whose output is read as fast as it comes."""

    def __init__(self, target: Path, state: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = {**clean_environment(), "TERM": "xterm-256color", "XDG_STATE_HOME": str(state)}
            os.execve(KMSTUI, [KMSTUI, f"--target={target}"], environment)  # noqa: S606 - a program of ours, no shell
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self._lock = threading.Condition()
        self._chunks: list[bytes] = []
        self.octets = 0
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 65536):
                with self._lock:
                    self.octets += len(data)
                    self._chunks.append(data)
                    self._lock.notify_all()

    def press(self, keys: str, *seen: Seen, timeout: float = 30.0) -> list[Lag]:
        """From the key press until each of these is true of what has been written to the terminal since."""
        with self._lock:
            self._chunks.clear()
        waited, began = self._waited(), time.perf_counter()
        os.write(self._terminal, keys.encode())
        return [Lag(self._wait(each, began, keys, timeout), self._waited() - waited) for each in seen]

    def _waited(self) -> float:
        """Seconds that its main thread was ready to run while other programs had the processors (Linux's schedstat)."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def _wait(self, seen: Seen, began: float, keys: str, timeout: float) -> float:
        with self._lock:
            if not self._lock.wait_for(lambda: seen(self._stripped()), timeout):
                raise SystemExit(f"kmstui did not show what was awaited after {keys!r}:\n{self._stripped()[-4000:]}")
        return time.perf_counter() - began

    def _stripped(self) -> str:
        return _ESCAPES.sub("", b"".join(self._chunks).decode(errors="replace"))

    def written(self) -> str:
        """Since the last key press, without escapes."""
        with self._lock:
            return self._stripped()

    def seconds_used(self) -> float:
        """Of the processor, by all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


def echo(pauses: Iterable[object]) -> list[Lag]:
    """As `press`, once for each pause, of a program that writes back what it reads: what the terminal itself takes."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "stty raw -echo; echo; exec cat"])  # noqa: S606 - fixed words
    taken = []
    try:
        os.read(terminal, 64)
        for _ in pauses:
            began = time.perf_counter()
            os.write(terminal, b"x")
            os.read(terminal, 64)
            taken.append(Lag(time.perf_counter() - began, 0.0))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    return taken
