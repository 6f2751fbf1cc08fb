"""kmstui as a person starts it: a process of its own in a real terminal (tmux)."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemons import Kmsd, wait_for
from tests.tokens import clean_environment
from tests.tui.conftest import under_load

KMSTUI = str(Path(sys.executable).with_name("kmstui"))


@dataclass(frozen=True)
class Terminal:
    """A tmux server of its own, with one pane of 80x24."""

    folder: Path
    environment: dict[str, str]

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", "kmstui-test", "-f", "/dev/null", *arguments],
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def ended(self) -> Path:
        """Holds the exit code once the program has ended."""
        return self.folder / "ended"

    def run(self, *command: str) -> None:
        # The pane outlives the program, so that what it leaves on the screen can be looked at.
        script = '"$@"; echo $? >"$0.new"; mv "$0.new" "$0"; exec sleep 600'
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", script, str(self.ended), *command)

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def raw(self) -> str:
        """With the colours."""
        return self.tmux("capture-pane", "-p", "-e")

    def shows(self, *wanted: str) -> str:
        return str(wait_for(lambda: self._having(wanted), timeout=40))

    def _having(self, wanted: Sequence[str]) -> str:
        screen = self.screen()
        return screen if all(text in screen for text in wanted) else ""

    def exit_code(self, timeout: float = 40.0) -> int:
        wait_for(self.ended.exists, timeout)
        return int(self.ended.read_text())


@pytest.fixture
def open_terminal(short_tmp: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*command: str, **environment: str) -> Terminal:
        base = {name: text for name, text in clean_environment().items() if not name.startswith(("TMUX", "NO_COLOR"))}
        folder = short_tmp / "tmux"
        folder.mkdir()
        terminal = Terminal(
            folder,
            {
                **base,
                "XDG_STATE_HOME": str(folder / "state"),
                "LC_ALL": "C.UTF-8",
                "TMUX_TMPDIR": str(folder),
                **environment,
            },
        )
        opened.append(terminal)
        terminal.run(*command)
        return terminal

    yield start
    for terminal in opened:
        terminal.tmux("kill-server")


def test_a_person_makes_a_key_rotates_watches_traffic_and_quits(
    start_kmsd: Callable[..., Kmsd], open_terminal: Callable[..., Terminal]
) -> None:
    kmsd = start_kmsd()
    terminal = open_terminal(KMSTUI, "--interval=0.5", KMSCTL_TARGET=f"unix://{kmsd.admin_socket}")
    terminal.shows("○ DOWN", "Write key", "kmsctl keygen k8s-kek")
    assert ";2;" in terminal.raw() or "38;5;" in terminal.raw()
    terminal.press("3", "n")
    terminal.shows("New key", "this is the write label", "Make it")
    terminal.press("Enter")
    terminal.shows("● SERVING", "● write")
    first = kmsd.status().write_key
    terminal.press("5", "R")
    terminal.shows("Rotate k8s-kek", "what would be done", "Cancel")
    terminal.press("Tab", "Enter")
    terminal.shows("✔ 2 labels moved", "▶ 4 kube-apiservers follow")
    second = kmsd.status().write_key
    assert second.key_id != first.key_id
    with under_load(kmsd):
        terminal.press("4")
        terminal.shows("Requests/s", "v2 Decrypt", "load-")
        terminal.press("1")
        terminal.shows(second.key_id_sha256[:8], "RotateKey")
    terminal.press("q")
    assert terminal.exit_code() == 0
    left = terminal.screen()
    assert "Requests/s" not in left  # the terminal is as it was


def test_bells_and_leaving_put_nothing_into_the_log_of_kmsd(
    start_kmsd: Callable[..., Kmsd], open_terminal: Callable[..., Terminal]
) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    before = len(kmsd.log_text().splitlines())
    terminal = open_terminal(KMSTUI, "--interval=0.2", f"--target={kmsd.admin_socket}")
    terminal.shows("● SERVING")
    terminal.press("4")
    terminal.shows("Requests/s")
    terminal.press("6", "Z", "Escape", "Z")  # keys that do nothing, and every stream open
    terminal.shows("Audit")
    terminal.press("q")
    assert terminal.exit_code() == 0
    kmsd.v2("Status")
    after = kmsd.log_text().splitlines()[before:]
    assert [line for line in after if not line.startswith("{")] == []
    assert {json.loads(line)["level"] for line in after} <= {"debug", "info"}


def test_no_color_is_honoured(kmsd: Kmsd, open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(KMSTUI, f"--target={kmsd.admin_socket}", NO_COLOR="1")
    terminal.shows("● SERVING", "● round trip")
    coloured = [code for code in _colours(terminal.raw()) if not _is_grey(code)]
    assert coloured == []
    terminal.press("q")
    assert terminal.exit_code() == 0


def test_quits_while_kmsd_hangs(kmsd: Kmsd, open_terminal: Callable[..., Terminal]) -> None:
    assert kmsd.process is not None
    terminal = open_terminal(KMSTUI, f"--target={kmsd.admin_socket}", "--interval=0.2")
    terminal.shows("● SERVING")
    kmsd.process.send_signal(signal.SIGSTOP)
    try:
        terminal.shows("  read 2 s ago")  # a call is under way, with most of its time left
        terminal.press("q")
        assert terminal.exit_code() == 0  # the streams of a kmsd that hangs never end
    finally:
        kmsd.process.send_signal(signal.SIGCONT)


def test_what_was_looked_at_is_there_again_the_next_time(kmsd: Kmsd, open_terminal: Callable[..., Terminal]) -> None:
    state = kmsd.folder / "home-state"
    terminal = open_terminal(KMSTUI, f"--target={kmsd.admin_socket}", XDG_STATE_HOME=str(state))
    terminal.shows("● SERVING")
    terminal.press("7")
    terminal.shows("Settings (")
    terminal.press("q")
    assert terminal.exit_code() == 0
    kept = state / "kmstui" / "state.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text())["screen"] == "Config and logs"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--target", "tcp://localhost:1"], "it must be a Unix socket"),
        (["--interval", "0"], "it must be 0.2 to 3600 seconds, got '0'"),
        ([f"--target=/run/{number}.sock" for number in range(33)], "there must be 32 targets at most, got 33"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--bogus\x1b]0;x\x07"], "unrecognized arguments: --bogus\\x1b]0;x\\x07"),
        ([], "kmstui needs a terminal"),
    ],
    ids=["target", "interval", "targets", "flag", "control characters", "no terminal"],
)
def test_what_cannot_work_is_refused_with_a_hint(arguments: list[str], told: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert told in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("kmstui: error: ")
    assert "\nhint: " in done.stderr


def test_help_and_version_need_no_terminal() -> None:
    assert "--target TARGET" in _run("--help").stdout
    assert _run("--version").stdout.startswith("kmstui ")


def test_importing_kmstui_loads_no_grpc_no_module_and_no_daemon() -> None:
    code = "import sys, kmstui.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "kmsd.client" in loaded
    assert not loaded & {"grpc", "pkcs11", "kmsctl", "kmsd.api", "kmsd.config.settings", "kmsd.hsm", "kmsd.daemon"}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KMSTUI, *arguments],
        env={**clean_environment(), "HOME": os.environ.get("HOME", "/")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _colours(raw: str) -> Iterator[tuple[str, str]]:
    """(kind, value) of each colour that is set: ("5", "235") or ("2", "10;20;30")."""
    for sequence in raw.split("\x1b[")[1:]:
        codes = sequence.split("m", 1)[0].split(";")
        for at, code in enumerate(codes):
            if code in ("38", "48") and at + 1 < len(codes):
                yield codes[at + 1], ";".join(codes[at + 2 : at + (3 if codes[at + 1] == "5" else 5)])


def _is_grey(colour: tuple[str, str]) -> bool:
    kind, value = colour
    if kind == "5":
        return int(value) in (0, 7, 8, 15, 16, 59, 102, 145, 188, 231) or int(value) >= 232
    return len(set(value.split(";"))) == 1
