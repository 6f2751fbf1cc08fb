"""Make lines of the log of what libraries in kmsd's own process print, so that everything on stderr is the log."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from typing import Final

from kmsd.observe.printed import Printed, listen

_STDERR: Final = 2
_PIPE_BYTES: Final = 1024 * 1024
"""The size of the pipe. It holds more than libraries print between two turns of the event loop: whoever writes to a
full pipe waits for its reader."""


async def take(told: Printed) -> None:
    """Have the descriptor of stderr lead to a pipe, and `sys.stderr`, which the log writes to, where it led before.

    told: of each line that is printed. Lasts until the process ends. Raises OSError.
    """
    _, writing = await listen(told)
    try:
        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        before = os.dup(_STDERR)
        sys.stderr = os.fdopen(before, "w", buffering=1, errors="backslashreplace")
        os.dup2(writing, _STDERR)
    finally:
        os.close(writing)
