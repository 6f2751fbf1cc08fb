"""Started programs whose words a failing test can show.

Knows nothing of kmsd or Kubernetes.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class NotUpError(AssertionError):
    """A program did not come up within its bound."""


def free_port(count: int = 1) -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago, and with `count` those that follow it.

    It is below those that Linux gives to whoever connects to anything, so that it can be listened on again later, too.
    """
    while True:
        port = secrets.choice(range(10_000, 32_000))
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for each in range(port, port + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port


class Program:
    """A child process whose output goes to a file, so that a failure can show it."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=None if environment is None else dict(environment),
            )

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, look: Callable[[], object], *, seconds: float, what: str) -> None:
        """Return once `look` is true; raise `NotUpError`, with its last words, if it ends or takes longer."""
        deadline = time.monotonic() + seconds
        while not look():
            if not self.running():
                code = self._process.returncode
                raise NotUpError(f"ended with {code} before {what}:\n{self.output()[-3000:]}")
            if time.monotonic() > deadline:
                raise NotUpError(f"not within {seconds:g} s: {what}\n{self.output()[-3000:]}")
            time.sleep(0.02)

    def stop(self, *, seconds: float = 15) -> int:
        """End it: SIGTERM first, SIGKILL after `seconds`. The exit code, negative for a signal."""
        if self.running():
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
