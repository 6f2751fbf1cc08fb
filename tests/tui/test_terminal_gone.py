"""kmstui when its terminal goes away, and when not all of its streams are one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemons import Kmsd, wait_for
from tests.tokens import clean_environment
from tests.tui.test_terminal import KMSTUI, Terminal, open_terminal

__all__ = ["open_terminal"]

SECONDS = 10.0
"""In which it ends, on a busy machine too."""


class Pty:
    """A terminal of 120x40, read as fast as it is written."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._over = threading.Event()
        self._written = bytearray()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        os.set_blocking(self._master, False)
        while not self._over.wait(0.01):
            with contextlib.suppress(OSError):
                self._written += os.read(self._master, 65536)

    def shows(self, text: str) -> None:
        """Waits until this has been written."""
        try:
            wait_for(lambda: text.encode() in self._written, 40)
        except AssertionError:
            raise AssertionError(f"no {text!r} in {bytes(self._written[-2000:])!r}") from None

    def started(self) -> None:
        """Its program has it now."""
        os.close(self.slave)

    def hang_up(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._reading.join()
            os.close(self._master)


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    terminals: tuple[Pty, ...]

    def ends(self) -> int:
        """The exit code. Fails if it does not end soon, or uses a processor until then."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self.process.wait(SECONDS)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - self._used
        assert used < 1.5, f"{used:.1f} s of a processor after its terminal was gone"
        return code

    _used = 0.0

    def mark(self) -> None:
        """What it uses from now on counts."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        self._used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, kmsd: Kmsd) -> Iterator[Start]:
    begun: list[Running] = []

    def run(*, nohup: bool = False, controlling: bool = True, outputs: int = 1) -> Running:
        terminals = tuple(Pty() for _ in range(outputs))

        # Whoever leads a session and has no terminal gets the first one that it opens.
        own = f"<{os.ttyname(terminals[0].slave)}" if controlling else ""
        ignoring = "trap '' HUP; " if nohup else ""
        script = f'{ignoring}exec "$@" {own}'
        with (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                ["sh", "-c", script, "sh", KMSTUI, f"--target={kmsd.admin_socket}", "--interval=0.5"],
                stdin=terminals[0].slave,
                stdout=terminals[-1].slave,
                stderr=stderr,
                start_new_session=True,
                env={**clean_environment(), "TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path / "state")},
            )
        running = Running(process, terminals)
        begun.append(running)
        for terminal in terminals:
            terminal.started()
        terminals[-1].shows("SERVING")
        running.mark()
        return running

    yield run
    for running in begun:
        running.process.kill()
        running.process.wait()
        for terminal in running.terminals:
            terminal.hang_up()


@pytest.mark.parametrize(
    "how",
    [{}, {"nohup": True}, {"controlling": False}, {"nohup": True, "controlling": False}],
    ids=["SIGHUP", "nohup", "not controlling", "nobody tells"],
)
def test_ends_when_its_terminal_is_gone(start: Start, tmp_path: Path, how: dict[str, bool]) -> None:
    running = start(**how)
    running.terminals[0].hang_up()
    assert running.ends() == 129
    assert (tmp_path / "stderr").read_text() == "kmstui: error: its terminal is gone\n"


@pytest.mark.parametrize("gone", [0, 1], ids=["keyboard", "screen"])
def test_ends_when_half_of_its_terminal_is_gone(start: Start, gone: int) -> None:
    running = start(nohup=True, controlling=False, outputs=2)
    running.terminals[gone].hang_up()
    assert running.ends() == 129


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["SIGHUP", "SIGTERM"])
def test_a_signal_leaves_the_terminal_as_it_was(start: Start, number: signal.Signals) -> None:
    running = start()
    running.process.send_signal(number)
    assert running.ends() == 128 + number
    running.terminals[0].shows("\x1b[?1049l")


def test_a_program_that_is_stopped_ends_when_it_goes_on_without_its_terminal(start: Start) -> None:
    running = start(nohup=True, controlling=False)
    running.process.send_signal(signal.SIGSTOP)
    running.terminals[0].hang_up()
    running.process.send_signal(signal.SIGCONT)
    assert running.ends() == 129


@pytest.mark.parametrize("stderr", ["2>stderr", "2>&-"], ids=["file", "closed"])
def test_draws_on_the_terminal_wherever_stderr_goes(
    kmsd: Kmsd, open_terminal: Callable[..., Terminal], short_tmp: Path, stderr: str
) -> None:
    told = short_tmp / "stderr"
    command = f"exec {KMSTUI} --target={kmsd.admin_socket} {stderr.replace('stderr', str(told))}"
    terminal = open_terminal("sh", "-c", command)
    terminal.shows("● SERVING", "Write key")
    terminal.press("q")
    assert terminal.exit_code() == 0
    assert not told.exists() or told.read_bytes() == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-"], ids=["stdin", "stdout"])
def test_refuses_to_begin_without_a_terminal_that_was_closed(kmsd: Kmsd, closed: str) -> None:
    done = subprocess.run(
        ["script", "-qec", f"{KMSTUI} --target={kmsd.admin_socket} {closed}", "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "kmstui needs a terminal" in done.stdout
