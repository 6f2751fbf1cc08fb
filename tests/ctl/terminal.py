"""A real terminal (tmux) with a program in it: what a person would see, and keys to press."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemons import wait_for
from tests.tokens import clean_environment

_TABS = 6
_TAB_SECONDS = 5.0
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Terminal:
    """A tmux server of its own, with one pane. environment: besides ours."""

    folder: Path
    environment: dict[str, str]

    @property
    def ended(self) -> Path:
        """Holds the exit code once the program has ended."""
        return self.folder / "ended"

    def tmux(self, *arguments: str) -> str:
        base = {name: text for name, text in clean_environment().items() if not name.startswith(("TMUX", "NO_COLOR"))}
        # A state folder of its own: kmstui opens on the screen that whoever runs the tests was on last.
        own = {"TMUX_TMPDIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        path = f"{PROGRAMS}:{base['PATH']}"
        done = subprocess.run(
            ["tmux", "-L", "kmsctl-test", "-f", "/dev/null", *arguments],
            env={**base, "PATH": path, "LC_ALL": "C.UTF-8", **own, **self.environment},
            capture_output=True,
            encoding="utf-8",
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *command: str, columns: int = 80, lines: int = 24) -> None:
        # The pane outlives the program, so that what it leaves on the screen can be looked at; Ctrl-C is
        # for the program alone.
        script = 'trap : INT; echo BEFORE; "$@"; echo $? >"$0.new"; mv "$0.new" "$0"; echo AFTER; exec sleep 600'
        size = ("-x", str(columns), "-y", str(lines))
        self.tmux("new-session", "-d", *size, "sh", "-c", script, str(self.ended), *command)

    def resize(self, columns: int, lines: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-J")

    def raw(self) -> str:
        """With the colours."""
        return self.tmux("capture-pane", "-p", "-e")

    def flag(self, name: str) -> str:
        """A format of tmux, as alternate_on or cursor_flag."""
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip()

    def completes(self, wanted: str) -> str:
        """What Tab leads to; pressed again now and then, as by a person on a slow machine: a shell asks for live
        names for a moment only."""
        for _ in range(_TABS):
            self.press("Tab")
            with contextlib.suppress(AssertionError):
                return str(wait_for(lambda: self._having((wanted,), ""), _TAB_SECONDS))
        return self.shows(wanted)

    def shows(self, *wanted: str, without: str = "") -> str:
        try:
            return str(wait_for(lambda: self._having(wanted, without)))
        except AssertionError:
            raise AssertionError(f"no {wanted} without {without!r} on\n{self.screen()}") from None

    def _having(self, wanted: Sequence[str], without: str) -> str:
        screen = self.screen()
        return screen if all(text in screen for text in wanted) and not (without and without in screen) else ""

    def exit_code(self) -> int:
        wait_for(self.ended.exists)
        return int(self.ended.read_text())

    def close(self) -> None:
        self.tmux("kill-server")
