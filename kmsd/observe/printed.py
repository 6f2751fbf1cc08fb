"""Read what a module writes to stdout or stderr: some write there why they failed. Lines that are too many or too
long are left out or cut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

Printed = Callable[[str, int], None]
"""A function that is told of a line that was printed, and how many before it were left out."""

_LINE_BYTES: Final = 500
"""Longer lines are cut."""
_LINES: Final = 20
_SECONDS: Final = 10.0
"""The seconds in which at most _LINES lines are told of; more are only counted."""


class Lines(asyncio.Protocol):
    """The reading end of a pipe. told: of each line that is not empty."""

    def __init__(self, told: Printed) -> None:
        self._told = told
        self._part = b""
        self._left_out = 0
        self._began = 0.0
        self._number = 0

    def data_received(self, data: bytes) -> None:
        """Take what was printed, and tell its whole lines."""
        *whole, rest = (self._part + data).split(b"\n")
        # The beginning of a line is kept; what is over its length is not collected.
        self._part = rest[: _LINE_BYTES + 1]
        for line in whole:
            self._line(line)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell what was printed last."""
        self._line(self._part)

    def _line(self, line: bytes) -> None:
        line = line.strip()
        if not line:
            return
        now = monotonic()
        if now - self._began > _SECONDS:
            self._began, self._number = now, 0
        self._number += 1
        if self._number > _LINES:
            self._left_out += 1
            return
        text = line[:_LINE_BYTES].decode(errors="backslashreplace") + ("..." if len(line) > _LINE_BYTES else "")
        left_out, self._left_out = self._left_out, 0
        self._told(text, left_out)


async def listen(told: Printed) -> tuple[asyncio.ReadTransport, int]:
    """Make a pipe. Returns its reading end, whose lines are told of, and the descriptor to write to, which the caller
    closes. Raises OSError."""
    reading, writing = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: Lines(told), os.fdopen(reading, "rb", 0))
    return transport, writing
