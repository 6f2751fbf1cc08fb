"""`kmsctl stats --watch` as a person sees it, in a real terminal, and as a script reads it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kmsctl.figures import FrameHistory
from kmsctl.output import painted
from kmsctl.statsview import live
from kmsctl.text import width
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import decode
from tests import forkserver
from tests.ctl.answers import stats_frame
from tests.ctl.canned import Canned, serve
from tests.ctl.conftest import Run
from tests.ctl.terminal import Terminal
from tests.daemons import KMSCTL, wait_for

WATCH = ("kmsctl", "stats", "--watch")
TAKEN, GIVEN_BACK = b"\x1b[?1049h", b"\x1b[?1049l"
"""The alternate screen."""


def later(seconds: int, requests: int) -> pb.WatchStatsResponse:
    """The frame after the first by so many seconds, with one second of traffic in it."""
    frame = stats_frame()
    frame.unix_ms += 1000 * seconds
    frame.seconds[0].unix_s += 2 + seconds
    frame.seconds[0].requests = requests
    del frame.seconds[1:]
    for call in frame.calls:
        call.count += 20 * seconds if call.code == "OK" else 0
    for key in frame.keys:
        key.decrypts += 20 * seconds
    return frame


def following(canned: Canned) -> bool:
    return bool(canned.followers.get("WatchStats"))


def test_a_person_watches_resizes_and_leaves(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(*WATCH, columns=100, lines=36)
    screen = terminal.shows("REQUESTS 13.3/s", "k8s-kek@2022", "v2        Decrypt", "NOT_FOUND", "TOKEN", "q leaves")
    assert "BEFORE" not in screen  # the alternate screen
    assert (terminal.flag("alternate_on"), terminal.flag("cursor_flag")) == ("1", "0")
    for second in range(1, 8):
        canned.feed("WatchStats", later(second, requests=80))
    terminal.shows("REQUESTS 80.0/s", "v2        Decrypt   20.0    3.6k ")
    terminal.resize(60, 12)
    small = terminal.shows("q leaves", without="TOKEN")
    assert len(small.rstrip("\n").splitlines()) == 12
    terminal.resize(130, 45)
    terminal.shows("TOKEN", "q leaves")
    terminal.press("q")
    assert terminal.exit_code() == 0
    left = terminal.shows("BEFORE", "AFTER")
    assert "REQUESTS" not in left
    assert (terminal.flag("alternate_on"), terminal.flag("cursor_flag")) == ("0", "1")


@pytest.mark.parametrize(("way", "code"), [("C-c", 130), ("TERM", 143), ("HUP", 129)])
def test_however_it_ends_the_terminal_is_given_back(
    canned: Canned, open_terminal: Callable[..., Terminal], way: str, code: int
) -> None:
    show_pid = 'echo $$ >"$0"; exec kmsctl stats --watch'
    pid_file = canned.directory / "pid"
    modes = 'stty >"$0.before"; sh -c "$1" "$0"; code=$?; stty >"$0.after"; exit $code'
    terminal = open_terminal("sh", "-c", modes, str(pid_file), show_pid)
    terminal.shows("REQUESTS")
    if way == "C-c":
        # The shells in between would end with the signal too, before they could tell.
        os.kill(int(pid_file.read_text()), signal.SIGINT)
    else:
        os.kill(int(pid_file.read_text()), signal.Signals[f"SIG{way}"])
    assert terminal.exit_code() == code
    left = terminal.shows("BEFORE", "AFTER")
    assert "Traceback" not in left
    assert (terminal.flag("alternate_on"), terminal.flag("cursor_flag")) == ("0", "1")
    assert (canned.directory / "pid.before").read_text() == (canned.directory / "pid.after").read_text()


def test_ctrl_c_leaves(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("bash", "--norc", "-i", PS1="READY$ ")
    terminal.type("kmsctl stats --watch; echo CODE $?")
    terminal.press("Enter")
    terminal.shows("REQUESTS")
    terminal.press("C-c")
    terminal.press("Enter")
    assert "Traceback" not in terminal.shows("READY$ \n", without="REQUESTS")
    terminal.type("echo CODE $?")
    terminal.press("Enter")
    assert terminal.flag("alternate_on") == "0"


def test_ctrl_z_gives_the_terminal_back_for_a_while(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal("bash", "--norc", "-i", PS1="READY$ ")
    terminal.type("kmsctl stats --watch")
    terminal.press("Enter")
    terminal.shows("REQUESTS")
    terminal.press("C-z")
    terminal.shows("Stopped", "BEFORE", without="REQUESTS")
    terminal.type("echo back")
    terminal.press("Enter")
    terminal.shows("\nback\n")
    terminal.type("fg; echo CO''DE $?")
    terminal.press("Enter")
    terminal.shows("REQUESTS", without="BEFORE")
    terminal.press("q")
    terminal.shows("CODE 0")


def test_ctrl_z_in_the_middle_of_a_frame_stops_it_once_that_is_out(canned: Canned) -> None:
    terminal, its = pty.openpty()
    termios.tcsetwinsize(its, (200, 400))
    # In a session whose leader is another one: the last of a session is not stopped (POSIX 11.1.4).
    process = subprocess.Popen(
        [KMSCTL, "stats", "--watch", "--interval=200ms"], stdin=its, stdout=its, stderr=subprocess.PIPE, process_group=0
    )
    about, shown = Path(f"/proc/{process.pid}"), bytearray()

    def writes() -> bool:
        canned.feed("WatchStats", later(1, requests=1))
        return (about / "syscall").read_text().startswith("1 0x1 ")

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 65536):
                shown.extend(data)

    wait_for(writes)
    process.send_signal(signal.SIGTSTP)
    threading.Thread(target=read, daemon=True).start()
    wait_for(lambda: (about / "stat").read_text().rpartition(")")[2].split()[0] == "T")
    wait_for(lambda: (shown.count(TAKEN), shown.count(GIVEN_BACK)) == (1, 1))
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: shown.count(TAKEN) == 2)
    os.write(terminal, b"q")
    assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 0
    os.close(its)


def test_a_kmsd_that_goes_away_is_one_line_and_3(
    directory: object, open_terminal: Callable[..., Terminal], tmp_path: object
) -> None:
    canned = Canned(directory)  # type: ignore[arg-type]
    with serve(canned):
        terminal = open_terminal(*WATCH)
        terminal.shows("REQUESTS")
    assert terminal.exit_code() == 3
    left = terminal.shows("kmsctl: error: ", "BEFORE", "AFTER")
    assert left.count("error") == 1
    assert terminal.flag("alternate_on") == "0"


def test_a_kmsd_that_says_nothing_is_told(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(*WATCH)
    terminal.shows("REQUESTS", without="NOTHING")
    terminal.shows("kmsd HAS SAID NOTHING FOR ")
    canned.feed("WatchStats", later(9, requests=1))
    terminal.shows("REQUESTS", without="NOTHING")


def test_colour_is_for_those_who_want_it(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(*WATCH)
    terminal.shows("q leaves")
    assert "\x1b[31m" in terminal.raw()


def test_no_color_is_honoured(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(*WATCH, NO_COLOR="1")
    terminal.shows("q leaves")
    assert "\x1b[" not in terminal.raw()


def test_an_encoding_without_the_bars_gets_plain_ones(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(*WATCH, PYTHONIOENCODING="ascii")
    assert "#" in terminal.shows("requests/s ____", "q leaves")


def test_nothing_is_cleared_between_two_frames(canned: Canned) -> None:
    primary, secondary = os.openpty()
    watching = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "stats", "--watch"], stdin=secondary, stdout=secondary, stderr=secondary
    )
    try:
        wait_for(lambda: following(canned))
        for second in range(1, 4):
            canned.feed("WatchStats", later(second, requests=second))
        shown = b""
        while shown.count(b"\x1b[?2026l") < 4:
            shown += os.read(primary, 65536)
        os.write(primary, b"q")
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        os.close(secondary)
        os.close(primary)
    entered, *frames = shown.split(b"\x1b[?2026h")
    assert entered.count(b"\x1b[2J") == 1
    assert all(b"\x1b[2J" not in frame and frame.startswith(b"\x1b[H") for frame in frames)


@pytest.mark.parametrize("size", [(20, 3), (40, 1), (80, 24), (200, 60), (1, 1)])
@pytest.mark.parametrize("silence", [0.0, 12.0])
def test_the_lines_fit_any_screen(size: tuple[int, int], silence: float) -> None:
    memory = FrameHistory()
    for second in range(30):
        memory.add(decode.stats.stats_frame(later(second, requests=second)))
    lines = live(memory, {"0x00ff10": "鍵" * 40}, "/x\x1b[2J", size, datetime(2026, 1, 1, tzinfo=UTC), silence)
    assert len(lines) <= size[1]
    for line in lines:
        text = painted(line, size[0])
        assert text.isprintable()
        assert width(text) <= size[0]


def test_piped_it_is_one_json_object_a_line(canned: Canned) -> None:
    watching = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "stats", "--watch", "--interval", "500ms", "--since", "2m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    canned.feed("WatchStats", later(1, requests=7))
    second = json.loads(watching.stdout.readline())
    assert [each["requests"] for each in first["seconds"]] == [10, 0, 30]
    assert [each["requests"] for each in second["seconds"]] == [7]
    assert first.keys() == second.keys()
    (request,) = canned.requests
    assert isinstance(request, pb.WatchStatsRequest)
    assert (request.interval_ms, request.history_seconds) == (500, 120)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert (watching.returncode, out, err) == (130, b"", b"")


def test_a_kmsd_that_stops_ends_a_pipe_with_3_and_one_line(directory: object) -> None:
    canned = Canned(directory)  # type: ignore[arg-type]
    with serve(canned):
        watching = forkserver.Popen[bytes](
            [sys.executable, "-m", "kmsctl", "stats", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert watching.stdout is not None
        assert watching.stdout.readline()
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 3
    assert err.startswith(b"kmsctl: error: ")
    assert err.count(b"\n") == 3  # the error, a hint, and that a retry may help


def test_a_stream_that_kmsd_ends_in_good_order_is_3_too(canned: Canned) -> None:
    watching = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "stats", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: following(canned))
    canned.feed("WatchStats", None)
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 3
    assert b"kmsctl: error: kmsd ended the stream: it stops or restarts\n" in err


def test_a_reader_that_leaves_ends_it_at_once(canned: Canned) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kmsctl stats --watch | head -n 1"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)


def test_a_table_needs_a_terminal(run: Run, canned: Canned) -> None:
    result = run("stats", "--watch", "-o", "table")
    assert (result.code, result.out) == (2, b"")
    assert "a live table needs a terminal" in result.err
    assert canned.requests == []
