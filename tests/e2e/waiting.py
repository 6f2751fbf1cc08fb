"""Bounded waiting and started programs, for tests that drive real processes.

Knows nothing of kmsd or Kubernetes.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class TooLateError(AssertionError):
    """Something that was promised did not happen within its bound."""


def wait_until(look: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """The first true answer of `look`, asked every 20 ms; `TooLateError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := look():
            return answer
        if time.monotonic() > deadline:
            raise TooLateError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Program:
    """A child process whose output goes to a file, so that a failure can show it."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=None if environment is None else dict(environment),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, look: Callable[[], object], *, seconds: float, what: str) -> None:
        """As `wait_until`, but a program that has ended fails at once, with its last words."""

        def alive_and_there() -> bool:
            if not self.running():
                code = self._process.returncode
                raise TooLateError(f"ended with {code} before {what}:\n{self.output()[-3000:]}")
            return bool(look())

        try:
            wait_until(alive_and_there, seconds=seconds, what=what)
        except TooLateError as late:
            raise TooLateError(f"{late}\n{self.output()[-3000:]}") from None

    def stop(self, *, seconds: float = 15, kind: signal.Signals = signal.SIGTERM) -> int:
        """End it: `kind` first, SIGKILL after `seconds`. The exit code, negative for a signal."""
        if self.running():
            self._process.send_signal(kind)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
