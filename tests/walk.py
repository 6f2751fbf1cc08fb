"""Walks docs/quickstart.md: its blocks in one shell with a terminal, as somebody types them who has nothing yet."""

from __future__ import annotations

import errno
import os
import pty
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.pages import ROOT, blocks

RUN = "tests/e2e/test_quickstart.py"
PIN = "quick-user-1"
EDITOR = f"#!/bin/sh\necho {PIN} > $1\n"
"""A program for $EDITOR that types the PIN."""


@dataclass(frozen=True)
class Walked:
    """What came of it. code: the shell's exit code. seconds: from the first command to the last."""

    code: int
    seconds: float
    text: str


def page() -> str:
    """Return what the page says to type."""
    return "".join(each.text for each in blocks(ROOT / "docs" / "quickstart.md") if each.run == RUN)


def walk(shell: Sequence[str], environment: Mapping[str, str], text: str, timeout: float = 120.0) -> Walked:
    """Have a shell do this text, and give it PINs when they are asked for. shell: its argv, with `-c` at the end."""
    begun = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], [*shell, text], dict(environment))  # noqa: S606 - the shell that is typed into
    seen, answered = b"", 0
    while True:
        if not select.select([terminal], [], [], max(0.0, begun + timeout - time.monotonic()))[0]:
            os.kill(pid, 9)
            break
        try:
            data = os.read(terminal, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            break  # the other side has closed it
        if not data:
            break
        seen += data
        # Whole prompts alone: "Please enter SO PIN: ", "Please reenter user PIN: ".
        if seen.endswith(b"PIN: ") and seen.count(b"PIN: ") > answered:
            answered = seen.count(b"PIN: ")
            line = seen.rsplit(b"\n", 1)[-1]
            time.sleep(0.1)  # it turns echo off, and throws away what was typed before
            os.write(terminal, (b"quick-officer-1" if b"SO" in line else PIN.encode()) + b"\n")
    # Closed before the shell has ended, it would end it.
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return Walked(code, time.monotonic() - begun, seen.decode(errors="replace").replace("\r\n", "\n"))
