"""kmsctl bench: what it asks of a real kmsd, what it leaves to others, and when it does not begin or does not go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsctl.bench import SHARE, Step, worth
from kmsd.client import connect
from tests.ctl.conftest import Run
from tests.daemons import Kmsd
from tests.tokens import make_token

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def kmsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    folder = tmp_path_factory.mktemp("bench")
    with Kmsd(folder, make_token(folder / "token"), ("--auto-create", "--log-level=info")) as running:
        running.wait_ok()
        yield running


def calls(kmsd: Kmsd) -> dict[tuple[str, str, str], int]:
    with connect(f"unix://{kmsd.admin_socket}") as client, client.watch_stats(history=0) as frames:
        return {(each.api, each.method, each.code): each.count for each in next(iter(frames)).calls}


def test_callers_rise_and_every_call_is_an_encrypt_or_a_decrypt_that_came_back_right(run: Run, kmsd: Kmsd) -> None:
    before = calls(kmsd)
    target = f"unix://{kmsd.admin_socket}"
    began = time.monotonic()
    result = run(
        "bench",
        "--target",
        target,
        "--socket",
        str(kmsd.socket),
        "--max-callers",
        "3",
        "--seconds",
        "0.6s",
        "-o",
        "json",
    )
    elapsed = time.monotonic() - began
    assert result.code == 0, result.err
    found = json.loads(result.text)
    assert [each["callers"] for each in found["steps"]] == [1, 2, 3]
    assert [each["refused"] for each in found["steps"]] == [0, 0, 0]
    for each in found["steps"]:
        assert each["calls"] > 1
        assert 0 < each["encrypt_ms"]["p50"] <= each["encrypt_ms"]["p99"]
        assert each["per_second"] == pytest.approx(each["calls"] / each["busy_seconds"])
    # What it does not say it leaves to others, it does leave.
    assert sum(each["busy_seconds"] for each in found["steps"]) < elapsed * (SHARE + 0.1)
    made = sum(each["calls"] for each in found["steps"])
    after = calls(kmsd)
    grown = {name: after[name] - before.get(name, 0) for name in after if name[0] != "admin"}
    assert {name for name, number in grown.items() if number} == {("v2", "Encrypt", "OK"), ("v2", "Decrypt", "OK")}
    assert sum(grown.values()) == made
    assert found["sessions_configured"] >= 1
    assert found["ended_early"] is None
    assert result.err.startswith("kmsctl: Encrypt and Decrypt of random values on ")


def test_the_socket_is_the_one_that_kmsd_names(run: Run, kmsd: Kmsd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMSCTL_SOCKET")
    result = run("bench", "--target", f"unix://{kmsd.admin_socket}", "--max-callers", "1", "--seconds", "0.2s")
    assert result.code == 0, result.err
    assert str(kmsd.socket) in result.err
    head, row = result.text.splitlines()
    assert head.split()[0] == "CALLERS"
    assert row.split()[0] == "1"


def test_a_kmsd_that_is_not_healthy_is_left_alone(run: Run, tmp_path: Path) -> None:
    with Kmsd(tmp_path, make_token(tmp_path / "token")) as empty:
        result = run("bench", "--target", f"unix://{empty.admin_socket}")
        assert (result.code, result.text) == (7, "")
        assert "is not healthy" in result.err
        assert not [name for name in calls(empty) if name[0] != "admin"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seconds 200s", "5 steps of 200s are 1000s"),
        ("--seconds 0.1s", "5 steps of 0.1s"),
        ("--max-callers 65", "less than or equal to 64"),
        ("--full", "kube-apiserver waits meanwhile, and there is no terminal to ask at"),
    ],
)
def test_what_is_too_much_is_refused(run: Run, kmsd: Kmsd, line: str, said: str) -> None:
    before = calls(kmsd)
    result = run("bench", "--target", f"unix://{kmsd.admin_socket}", "--socket", str(kmsd.socket), *line.split())
    assert result.code == 2
    assert said in result.err
    assert {name: number for name, number in calls(kmsd).items() if name[0] != "admin"} == {
        name: number for name, number in before.items() if name[0] != "admin"
    }


def test_no_more_calls_are_made_than_can_be_kept(run: Run, kmsd: Kmsd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmsctl.bench.CALLS_MOST", 4)
    result = run("bench", "--target", f"unix://{kmsd.admin_socket}", "--socket", str(kmsd.socket), "-o", "json")
    found = json.loads(result.text)
    assert len(found["steps"]) < 5
    assert found["ended_early"] == "4 calls were made"
    assert "ended early: 4 calls were made" in result.err


def test_ctrl_c_shows_what_has_been_measured(kmsd: Kmsd) -> None:
    command = (sys.executable, "-m", "kmsctl", "bench", "--target", f"unix://{kmsd.admin_socket}", "--socket")
    line = (*command, str(kmsd.socket), "--seconds", "1s", "--max-callers", "64", "-o", "json")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "random values" in process.stderr.readline()
        time.sleep(2.5)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["ended_early"] == "interrupted"
    assert 1 <= len(found["steps"]) < 7
    assert "Traceback" not in err


def test_the_sessions_that_are_worth_it_are_those_with_which_throughput_stops_growing() -> None:
    def step(callers: int, per_second: int) -> Step:
        return Step(callers, encrypts=[1.0] * per_second, busy=1.0)

    assert worth([step(1, 100), step(2, 190), step(4, 200), step(8, 195)]) == 2
    assert worth([step(1, 100), step(2, 200), step(4, 400)]) is None  # it grew to the end
    assert worth([step(1, 100)]) == 1
    assert worth([]) is None


def test_it_ends_when_kmsd_refuses_a_call(run: Run, tmp_path: Path) -> None:
    little = {"KMSD_TOKEN__QUEUE": "1", "KMSD_TOKEN__SESSIONS": "1"}
    with Kmsd(tmp_path, make_token(tmp_path / "token"), ("--auto-create",), environment=little) as narrow:
        narrow.wait_ok()
        sockets = ("--target", f"unix://{narrow.admin_socket}", "--socket", str(narrow.socket))
        result = run("bench", *sockets, "--max-callers", "64", "--seconds", "1s", "--full", "--yes", "-o", "json")
    assert result.code == 0, result.err
    *rising, last = json.loads(result.text)["steps"]
    assert rising
    assert [each["refused"] for each in rising] == [0] * len(rising)
    assert 0 < last["refused"] <= last["callers"] < 64
    assert f"ended early: kmsd refused a call: {last['callers']} callers at once are more than it takes" in result.err
