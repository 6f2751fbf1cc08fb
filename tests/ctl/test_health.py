"""`kmsctl health --wait`, which bootstrap scripts stand on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc

from tests import forkserver
from tests.ctl.answers import degraded, down, serving
from tests.ctl.canned import Canned, Failure, serve
from tests.ctl.conftest import Run


def test_ok_is_0_and_exactly_ok(run: Run, canned: Canned) -> None:
    assert run("health").out == b"ok\n"
    canned.status = degraded()
    result = run("health")
    assert (result.code, result.out) == (0, b"ok\n")


def test_json_tells_the_reason_and_the_hint(run: Run, canned: Canned) -> None:
    canned.status = down()
    result = run("health", "-o", "json")
    assert result.code == 7
    assert json.loads(result.out) == {
        "healthz": "no key with the label k8s-kek",
        "healthy": False,
        "state": "down",
        "hint": "make one: kmsctl keygen k8s-kek",
        "tokens": [],
    }


def test_wait_gives_up_with_3_when_nothing_ever_answered(run: Run) -> None:
    started = time.monotonic()
    result = run("health", "--wait", "--timeout", "500ms")
    assert time.monotonic() - started < 5
    assert (result.code, result.out) == (3, b"")
    assert "there is no socket" in result.err


def test_wait_gives_up_with_7_when_kmsd_answered_and_was_never_ok(run: Run, canned: Canned) -> None:
    canned.status = down()
    result = run("health", "--wait", "--timeout", "1500ms")
    assert (result.code, result.out) == (7, b"no key with the label k8s-kek\n")
    assert len(canned.requests) >= 2
    assert result.err == "hint: make one: kmsctl keygen k8s-kek\n"


def test_wait_outlives_answers_that_may_pass_and_not_those_that_never_do(run: Run, canned: Canned) -> None:
    canned.failures = {"GetStatus": Failure(grpc.StatusCode.UNAVAILABLE, "starting", retryable=True)}
    assert run("health", "--wait", "--timeout", "1500ms").code == 1
    assert len(canned.requests) >= 2
    canned.requests.clear()
    canned.failures = {"GetStatus": Failure(grpc.StatusCode.PERMISSION_DENIED, "no")}
    assert run("health", "--wait", "--timeout", "30s").code == 4
    assert len(canned.requests) == 1


def test_wait_returns_when_kmsd_appears_and_becomes_ok(directory: Path) -> None:
    waiting = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "health", "--wait", "--timeout", "60s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    canned = Canned(directory, status=down())
    with serve(canned):
        assert _eventually(lambda: len(canned.requests) >= 2)
        assert waiting.poll() is None
        canned.status = serving()
        out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out, err) == (0, b"ok\n", b"")


def test_an_interrupted_wait_is_130_without_a_traceback(canned: Canned) -> None:
    canned.status = down()
    waiting = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "health", "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert _eventually(lambda: len(canned.requests) >= 1)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out, err) == (130, b"", b"")


def test_progress_is_shown_on_a_terminal_and_taken_back(canned: Canned) -> None:
    canned.status = down()
    shown = _on_a_terminal("xterm", "--timeout", "2s")
    assert b"waiting for kmsd" in shown
    assert shown.endswith(b"\r\x1b[Khint: make one: kmsctl keygen k8s-kek\r\n")
    assert _on_a_terminal("dumb", "--timeout", "2s") == b"hint: make one: kmsctl keygen k8s-kek\r\n"


def _on_a_terminal(term: str, *argv: str) -> bytes:
    """What `kmsctl health --wait` writes to a stderr that is a terminal."""
    primary, secondary = os.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(primary, 4096):
                shown.extend(data)
        except OSError:
            pass  # how Linux says that the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    forkserver.run(
        [sys.executable, "-m", "kmsctl", "health", "--wait", *argv],
        stdout=subprocess.DEVNULL,
        stderr=secondary,
        env={**os.environ, "TERM": term},
        check=False,
        timeout=60,
    )
    os.close(secondary)
    reader.join(timeout=30)
    os.close(primary)
    return bytes(shown)


def _eventually(condition: object, seconds: float = 30.0) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_keygen_waits_for_a_kmsd_that_starts_and_for_its_token(directory: Path) -> None:
    waiting = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", "keygen", "fresh", "--wait", "--timeout", "60s", "-o", "name"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    canned = Canned(directory, status=down())
    canned.status.token.up = False
    with serve(canned):
        assert _eventually(lambda: len(canned.requests) >= 2)
        assert waiting.poll() is None
        canned.status = down()  # without a key, which is what keygen is for
        out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (0, b"fresh\n")
    assert b"error" not in err


def test_keygen_makes_no_key_before_kmsd_and_token_are_there(run: Run, canned: Canned) -> None:
    canned.status.token.up = False
    canned.failures = {"GenerateKey": Failure(grpc.StatusCode.UNAVAILABLE, "the token is away", retryable=True)}
    result = run("keygen", "fresh", "--wait", "--timeout", "1s")
    assert result.code == 1
    assert "the token is away" in result.err
    assert run("--target", "/nowhere", "keygen", "fresh", "--wait", "--timeout", "300ms").code == 3


def test_keygen_without_wait_does_not_wait(run: Run, canned: Canned) -> None:
    canned.status.token.up = False
    assert run("keygen", "fresh").code == 0
    assert len(canned.requests) == 1


def test_live_is_7_only_when_nothing_but_a_restart_can_help(run: Run, canned: Canned) -> None:
    canned.status = down()
    assert run("health").code == 7
    result = run("health", "--live")
    assert (result.code, result.out) == (0, b"alive\n")
    canned.status.not_alive = "a call into the PKCS#11 module has not come back"
    result = run("health", "--live")
    assert (result.code, result.text) == (7, "a call into the PKCS#11 module has not come back\n")
    assert result.err == "hint: kmsd is ending by itself; what supervises it starts it anew\n"
    assert json.loads(run("health", "--live", "-o", "json").out) == {
        "alive": False,
        "reason": "a call into the PKCS#11 module has not come back",
    }
