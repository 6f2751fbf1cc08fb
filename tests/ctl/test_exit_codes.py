"""Every failure has its exit code, one error line, and a hint; and nothing on stdout."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from syrupy.assertion import SnapshotAssertion

from tests.ctl.answers import down
from tests.ctl.canned import Canned, Failure
from tests.ctl.conftest import Run

NOBODY = 65534
ANSWERS = {
    "invalid": (2, Failure(grpc.StatusCode.INVALID_ARGUMENT, "a label has 1 to 255 bytes", "shorten it")),
    "denied": (4, Failure(grpc.StatusCode.PERMISSION_DENIED, "the token refused the PIN", "unlock it")),
    "not-found": (5, Failure(grpc.StatusCode.NOT_FOUND, "no key has the label x", "kmsctl keys list")),
    "taken": (6, Failure(grpc.StatusCode.ALREADY_EXISTS, "the label x is taken", "--if-not-exists")),
    "forbidden": (6, Failure(grpc.StatusCode.FAILED_PRECONDITION, "x has a key id", "nothing to do")),
    "away": (1, Failure(grpc.StatusCode.UNAVAILABLE, "the token is away", "plug it in", retryable=True)),
    "away-not-retryable-by-name": (1, Failure(grpc.StatusCode.UNAVAILABLE, "the token is away")),
    "away-precondition": (
        1,
        Failure(grpc.StatusCode.FAILED_PRECONDITION, "the token is away", "wait", retryable=True),
    ),
    "slow": (1, Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer from the token", retryable=True)),
    "full": (1, Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "wait", retryable=True)),
    "old": (1, Failure(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")),
    "bug": (1, Failure(grpc.StatusCode.INTERNAL, "unexpected \x1b[2Jstate")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_kmsd_refuses_has_a_code_and_a_hint(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, name: str
) -> None:
    code, failure = ANSWERS[name]
    canned.failures = {"GenerateKey": failure}
    result = run("keygen", "x")
    assert result.out == b""
    assert (result.code, result.err) == snapshot
    assert result.code == code
    assert result.err.startswith("kmsctl: error: ")
    assert ("retry: " in result.err) == (failure.retryable or failure.code is grpc.StatusCode.UNAVAILABLE)


USAGE = [
    "",
    "keys",
    "nonsense",
    "keys lits",
    "status --nonsense",
    "keygen",
    "keygen x --bits 512",
    "keygen x --type dsa",
    "-o xml status",
    "-o name version",
    "-o json decrypt /dev/null",
    "-o table encrypt /dev/null",
    "--timeout 0 status",
    "--timeout 1y status",
    "--timeout nan status",
    "health --timeout 25h",
    "--target localhost:443 status",
    "--target @abstract status",
    "--target unix:@abstract status",
    "--target unix-abstract:name status",
    "--target relative.sock status",
    pytest.param(f"--target /{'x' * 107} status", id="a path too long"),
    "--target unix:///x encrypt /dev/null",
    "encrypt /nonexistent",
    "encrypt /",
    "decrypt /dev/null",
    "decrypt --socket tcp:1 --key-id x /dev/null",
]


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_is_2_and_says_what_is_right(run: Run, snapshot: SnapshotAssertion, line: str) -> None:
    result = run(*line.split())
    assert result.code == 2
    assert result.out == b""
    if line not in ("", "keys"):  # those print their help
        assert re.fullmatch(r"kmsctl: error: .+\nhint: .+\n", result.err)
    assert result.err == snapshot


def test_no_socket_is_3_and_says_how_to_start(run: Run, snapshot: SnapshotAssertion) -> None:
    for line in (
        "status",
        "health",
        "slots",
        "mechanisms",
        "keys list",
        "keys show x",
        "keys test x",
        "keys adopt x",
        "keys relabel x y",
        "keys destroy x --yes",
        "keys retire x",
        "keys revert --yes",
        "keygen x",
        "config view",
        "log-level",
        "unlock",
        "health --live",
        "stats",
        "stats --watch",
        "requests",
        "requests --follow",
        "audit tail",
        "audit tail -f",
        "audit verify",
        "inspect /dev/null",
        "rotate --yes",
    ):
        result = run(*line.split())
        assert (result.code, result.out) == (3, b"")
        assert (result.err) == snapshot(name="admin")
    result = run("encrypt", "/dev/null")
    assert (result.code, result.err) == snapshot(name="kms")


def test_a_socket_that_nobody_listens_on_is_3(run: Run, directory: Path, snapshot: SnapshotAssertion) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(directory / "admin.sock"))
    result = run("status")
    assert (result.code, result.err) == snapshot


def test_a_kmsd_that_does_not_answer_in_time_is_3(run: Run, directory: Path, snapshot: SnapshotAssertion) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(directory / "admin.sock"))
        hung.listen()
        result = run("--timeout", "200ms", "status")
    assert (result.code, result.err) == snapshot
    assert "gave no answer within 0.2 s" in result.err


@pytest.mark.parametrize("command", ["stats", "requests", "audit tail", "audit verify", "keys test x", "stats -o json"])
def test_a_stream_or_long_work_that_does_not_answer_in_time_is_3(run: Run, directory: Path, command: str) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(directory / "admin.sock"))
        hung.listen()
        result = run(*command.split(), "--timeout", "200ms")
    assert (result.code, result.out) == (3, b"")
    assert "gave no answer within 0.2 s" in result.err


def test_a_path_that_is_no_socket_is_2(run: Run, directory: Path, snapshot: SnapshotAssertion) -> None:
    (directory / "admin.sock").write_text("a file")
    result = run("status")
    assert (result.code, result.err) == snapshot


@contextmanager
def unprivileged() -> Iterator[None]:
    """As nobody, if this is root; else as we are, who cannot pass permissions either."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_on_the_socket_is_4_and_names_owner_and_mode(run: Run, canned: Canned) -> None:
    canned.admin.chmod(0o600 if os.geteuid() == 0 else 0o000)
    with unprivileged():
        result = run("status")
    assert (result.code, result.out) == (4, b"")
    assert re.match(
        r"kmsctl: error: no permission on the socket DIR/admin\.sock: it belongs to \S+:\S+, mode 0\d00, "
        r"and you are \S+\nhint: run this as \S+ \(sudo\), or have kmsd give the socket to a group of yours\n",
        result.err,
    )


def test_no_permission_on_its_directory_is_4_and_names_the_directory(run: Run, canned: Canned) -> None:
    canned.directory.chmod(0o700 if os.geteuid() == 0 else 0o000)
    try:
        with unprivileged():
            result = run("status")
    finally:
        canned.directory.chmod(0o755)
    assert result.code == 4
    assert "no permission on the directory DIR: it belongs to " in result.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to a group it is not in")
def test_a_socket_of_a_group_hints_at_joining_it(run: Run, canned: Canned) -> None:
    canned.admin.chmod(0o660)
    os.chown(canned.admin, 0, 12345)
    with unprivileged():
        result = run("status")
    assert result.code == 4
    assert "hint: join the group 12345 (`usermod -aG 12345 " in result.err


def test_unhealthy_is_7_and_why(run: Run, canned: Canned, snapshot: SnapshotAssertion) -> None:
    canned.status = down()
    result = run("health")
    assert (result.code, result.text, result.err) == snapshot
    assert result.code == 7


def test_a_traceback_only_with_debug(run: Run) -> None:
    assert "Traceback" not in run("status").err
    result = run("--debug", "status")
    assert result.code == 3
    assert "Traceback (most recent call last)" in result.err


def test_a_server_that_pages_in_circles_is_an_error_and_no_endless_loop(run: Run, canned: Canned) -> None:
    canned.page = 0
    result = run("keys", "list")
    assert (result.code, result.out) == (1, b"")
    assert "answered the same page twice" in result.err


def test_text_that_is_not_utf8_is_2(run: Run, canned: Canned) -> None:
    label = b"\xff".decode(errors="surrogateescape")
    for argv in (["keygen", label], ["keygen", "x", "--id", label], ["keys", "adopt", label]):
        result = run(*argv)
        assert result.code == 2
        assert "is not UTF-8" in result.err
    assert canned.requests == []
