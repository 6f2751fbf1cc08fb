"""What kmstui writes to a slow terminal whose window changes its size."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import threading
import time

_PIECE, _PIECES, _END = 16_000, 60, b"END"
_WRITER = f"""
import signal, sys, time, tty
from kmstui.terminal import Output
tty.setraw(1)
signal.signal(signal.SIGWINCH, lambda *_: None)
out = Output(lambda: None)
print("READY", end="", flush=True)
for number in range({_PIECES}):
    out.write("%08d" % number * {_PIECE // 8})
    out.flush()
out.write("END")
out.flush()
time.sleep(60)
"""


def test_no_write_is_cut_short_by_a_signal_where_python_does_not_buffer() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        # -u is what PYTHONUNBUFFERED does.
        os.execv(sys.executable, [sys.executable, "-u", "-c", _WRITER])  # noqa: S606 - a program of ours, no shell
    done = threading.Event()

    def resize() -> None:
        while not done.wait(0.001):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGWINCH)

    resizing = threading.Thread(target=resize)
    try:
        written = b""
        while b"READY" not in written:
            written += os.read(terminal, 4096)
        resizing.start()
        written, deadline = written.partition(b"READY")[2], time.monotonic() + 60
        while not written.endswith(_END) and time.monotonic() < deadline:
            time.sleep(0.0005)
            written += os.read(terminal, 4096)
    finally:
        done.set()
        if resizing.ident is not None:
            resizing.join()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    whole = b"".join(b"%08d" % number * (_PIECE // 8) for number in range(_PIECES)) + _END
    assert len(written) == len(whole)
    # Not compared by pytest, which would look for the differences for minutes.
    assert (written == whole) is True
