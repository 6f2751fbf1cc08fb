"""`requests --follow` and `audit tail -f`: what comes is shown as it comes, in every format, until somebody leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from google.protobuf.message import Message
from syrupy.assertion import SnapshotAssertion

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests import forkserver
from tests.ctl import answers
from tests.ctl.canned import Canned, serve
from tests.ctl.conftest import Run
from tests.daemons import wait_for

FORMATS = ("table", "wide", "json", "yaml", "name")
COMMANDS: dict[str, tuple[str, Callable[[], Message]]] = {
    "requests --follow -n 2": (
        "WatchRequests",
        lambda: pb.WatchRequestsResponse(requests=answers.calls()[1:2], dropped=7),
    ),
    "audit tail -f -n 1": ("WatchAudit", lambda: pb.WatchAuditResponse(records=answers.audit()[:1], dropped=7)),
}


@contextmanager
def following(canned: Canned, line: str) -> Iterator[subprocess.Popen[bytes]]:
    method, _ = COMMANDS[line.partition(" -o")[0]]
    running = forkserver.Popen[bytes](
        [sys.executable, "-m", "kmsctl", *line.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: canned.followers.get(method))
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_comes_reads_the_same_forever(
    canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    method, message = COMMANDS[command]
    with following(canned, f"{command} -o {form}") as running:
        canned.feed(method, message())
        canned.feed(method, None)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 3  # kmsd ended what should have no end
    assert (out.decode(), err.decode()) == snapshot
    if form == "json":
        assert all(json.loads(line) for line in out.decode().splitlines())
    if form == "yaml":
        assert isinstance(yaml.safe_load(out), list)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_leaves_without_a_word(canned: Canned, command: str) -> None:
    with following(canned, command) as running:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kmsd_that_is_lost_is_3_and_one_line(directory: Path, command: str) -> None:
    canned = Canned(directory)
    with serve(canned):
        running = forkserver.Popen[bytes](
            [sys.executable, "-m", "kmsctl", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_for(lambda: canned.followers.get(COMMANDS[command][0]))
    _, err = running.communicate(timeout=30)
    assert running.returncode == 3
    assert err.decode().count("error: ") == 1
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_leaves_is_noticed_before_the_next_thing_comes(canned: Canned, command: str) -> None:
    with following(canned, command) as running:
        assert running.stdout is not None
        assert os.read(running.stdout.fileno(), 1)
        running.stdout.close()
        assert running.wait(30) == 1
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_without_follow_the_end_is_the_end(run: Run, canned: Canned) -> None:
    for command in ("requests", "audit tail"):
        result = run(*command.split())
        assert (result.code, result.err) == (0, "")
    assert [each.follow for each in canned.requests] == [False, False]  # type: ignore[attr-defined]
    assert [each.backlog for each in canned.requests] == [20, 10]  # type: ignore[attr-defined]


def test_nothing_yet_is_said(run: Run, canned: Canned) -> None:
    canned.calls.clear()
    canned.audit.clear()
    assert "kmsd has answered no call yet" in run("requests").err
    assert "the audit trail is empty" in run("audit", "tail").err
    assert json.loads(run("requests", "-o", "json").out) == {"requests": []}
    assert json.loads(run("audit", "tail", "-o", "json").out) == {"records": []}
    assert run("requests", "-o", "name").out == b""
