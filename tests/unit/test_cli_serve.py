"""What `kmsd serve` hands over to the daemon, and how it asks for a PIN."""

from __future__ import annotations

import getpass
import subprocess
import sys
from pathlib import Path

import pytest

from kmsd.config import pins, sources
from tests.daemons import KMSD, Kmsd, wait_for
from tests.tokens import PIN, SoftToken
from tests.unit.commandline import Run, record_serve


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> list[str]:
    """Makes stdin a terminal at which `typed` is typed; returns the prompts that were shown."""
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return typed

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", ask)
    return prompts


@pytest.mark.parametrize("code", [0, 1, 2])
def test_serve_exits_as_the_daemon_does(run: Run, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    record_serve(monkeypatch, code)
    assert run("serve") == (code, "", "")


def test_a_reload_reads_the_same_sources_again(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('keys.label = "one"\nlog.level = "error"')
    served = record_serve(monkeypatch)
    run(f"--config={file}", "serve", "--log-level=debug")
    ((loaded, reload),) = served
    assert (loaded.settings.keys.label, loaded.settings.log.level) == ("one", "debug")
    file.write_text('keys.label = "two"\nlog.level = "error"')
    again = reload()
    assert (again.settings.keys.label, again.settings.log.level) == ("two", "debug")
    file.write_text('keys.lable = "two"')
    with pytest.raises(sources.ConfigError, match=r"did you mean keys\.label"):
        reload()


def test_a_typed_in_pin_survives_a_reload_until_one_is_configured(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kmsd.toml"
    file.touch()
    served = record_serve(monkeypatch)
    prompts = on_a_terminal(monkeypatch, PIN)
    assert run("serve", f"--config={file}") == (0, "", "")
    assert prompts == ["PIN of the token: "]
    ((loaded, reload),) = served
    assert pins.read_pin(loaded.settings.token) == pins.read_pin(reload().settings.token) == PIN
    assert loaded.origins["token.pin"].where == "typed in"
    assert loaded.warnings == ()
    (tmp_path / "pin").write_text("other")
    file.write_text(f'token.pin_file = "{tmp_path}/pin"')
    assert pins.read_pin(reload().settings.token) == "other"
    assert len(prompts) == 1


@pytest.mark.parametrize("argv", [["--p11-pin=x"], ["--p11-pin-file=/x"]])
def test_a_configured_pin_is_not_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    served = record_serve(monkeypatch)
    prompts = on_a_terminal(monkeypatch, PIN)
    run("serve", *argv)
    assert (len(served), prompts) == (1, [])


def test_without_a_terminal_or_an_answer_serve_goes_on_without_a_pin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    run("serve")
    prompts = on_a_terminal(monkeypatch, "")
    run("serve")
    assert len(prompts) == 1
    assert [loaded.settings.token.pin for loaded, _ in served] == [None, None]


def test_serve_goes_on_with_stdin_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    monkeypatch.setattr(sys, "stdin", None)
    run("serve")
    assert len(served) == 1


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs a program on a terminal of its own, whose keyboard is stdin and whose screen is stdout."""


@pytest.mark.processes
def test_on_a_terminal_serve_asks_for_the_pin_unseen_and_stops_on_ctrl_c(short_tmp: Path, token: SoftToken) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    flags = ["--provider=softhsm", f"--p11-label={token.label}", "--auto-create", "--config=/dev/null"]
    served = Kmsd(folder, token, flags, default_flags=False, command=(sys.executable, "-c", TERMINAL, KMSD, "serve"))
    with (
        served.log_file.open("wb") as screen,
        subprocess.Popen(served.arguments, env=token.environment, stdin=subprocess.PIPE, stdout=screen) as process,
    ):
        served.process = process
        assert process.stdin is not None
        try:
            wait_for(lambda: "PIN of the token: " in served.log_text())
            process.stdin.write(f"{PIN}\n".encode())
            process.stdin.flush()
            wait_for(served._answers)
            served.wait_ok()
            process.stdin.write(b"\x03")
            process.stdin.flush()
            assert process.wait(timeout=20) == 0
        finally:
            if process.poll() is None:
                process.kill()
            served.stop()
    assert PIN not in served.log_text()
