"""The vocabulary that kmsd and its host processes share, and that a host takes nothing else."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kmsd.hsm.host.life  # noqa: F401 - brings all operations
from kmsd.hsm import wire
from kmsd.hsm.operation import Definition, Operation, definition

DONE_BY_THE_HOST = {Operation.END}
"""What needs no token."""
DEFINED = [definition(name) for name in Operation if name not in DONE_BY_THE_HOST]
SECONDS = 20.0
ROOT = Path(__file__).parents[2]

# What MessagePack knows, and is equal to itself.
st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(object, st.one_of(st.booleans(), st.text(), st.integers(0, 2**32)))


def test_every_operation_has_a_definition_and_a_name_of_its_own() -> None:
    assert {each.name for each in DEFINED} | DONE_BY_THE_HOST == set(Operation)
    assert len({each.function for each in DEFINED}) == len(DEFINED)
    for name in ("", "nonsense", "__init__", "RANDOM"):
        with pytest.raises((KeyError, ValueError)):
            definition(name)


def test_the_documentation_knows_the_names_that_timings_have() -> None:
    (line,) = [
        line
        for line in (ROOT / "docs" / "observability.md").read_text().splitlines()
        if line.startswith("| timings of the token")
    ]
    named = re.findall(r"`([a-z_]+)`", line)
    assert len(named) >= 3
    assert set(named) <= set(Operation)


@pytest.mark.parametrize("each", DEFINED, ids=lambda each: each.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_arguments_and_results_survive_the_way(each: Definition, data: st.DataObject) -> None:
    arguments = tuple(data.draw(st.from_type(kind)) for kind in each._parameters)
    (request,) = wire.requests(_body([wire.Request(1, each.name, wire.pack(arguments), True, 1.0)]))
    _same(each.arguments(request.arguments), arguments)

    result = data.draw(st.from_type(each._hints["return"]))
    (reply,) = wire.replies(_body([wire.Reply(1, wire.pack(result), 0.5)]))
    _same(each.result.decode(reply.value), result)


def _body(messages: list[wire.Request] | list[wire.Reply]) -> bytes:
    (body,) = wire.Frames().feed(wire.frame(messages))
    return body


def _same(came: object, went: object) -> None:
    assert came == went
    assert type(came) is type(went)


@given(st.lists(st.binary(max_size=64), max_size=8), st.integers(1, 9))
def test_frames_are_whole_however_they_are_cut(parts: list[bytes], step: int) -> None:
    stream = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    frames = wire.Frames()
    came = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]
    assert came == parts


class _Host:
    """A host process, spoken to byte by byte."""

    def __init__(self) -> None:
        self.channel, its = socket.socketpair()
        self.channel.settimeout(SECONDS)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kmsd.hsm.host", str(its.fileno())],
            pass_fds=(its.fileno(),),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        its.close()
        self._frames = wire.Frames()

    def ask(self, operation: str, *arguments: object, until: float = inf) -> wire.Reply:
        self.channel.sendall(wire.frame([wire.Request(1, operation, wire.pack(arguments), False, until)]))
        bodies: list[bytes] = []
        while not bodies:
            data = self.channel.recv(65536)
            assert data, "the host has ended"
            bodies = self._frames.feed(data)
        (reply,) = wire.replies(bodies[0])
        return reply


@pytest.fixture
def host() -> Iterator[_Host]:
    started = _Host()
    yield started
    started.channel.close()
    started.process.kill()
    started.process.communicate()


def test_a_host_refuses_what_it_does_not_know_and_goes_on(host: _Host) -> None:
    for name in ("nonsense", "", "__class__", "x" * 10_000):
        failure = host.ask(name).failure
        assert failure is not None
        assert failure.kind == "internal"
        assert len(failure.name) < 100
    wrong: tuple[tuple[object, ...], ...] = ((), ("eight",), (8, 8, 8), ([],), (None,))
    for arguments in wrong:
        failure = host.ask(Operation.RANDOM, *arguments).failure
        assert failure is not None, arguments
        assert failure.kind == "internal"
    late = host.ask(Operation.RANDOM, 8, until=0.0).failure
    assert late is not None
    assert late.name == "DeadlineExceeded"
    assert host.process.poll() is None


@pytest.mark.parametrize(
    "data",
    [
        (wire.FRAME_MOST + 1).to_bytes(4, "big"),
        b"\0\0\0\5hello",
        b"\0\0\0\1\xc1",
        b"\0\0\0\0",
        (lambda body: len(body).to_bytes(4, "big") + body)(msgspec.msgpack.encode([["one", 2, 3]])),
    ],
    ids=["too long", "text", "no MessagePack", "empty", "no request"],
)
def test_a_host_ends_at_what_kmsd_never_says(host: _Host, data: bytes) -> None:
    host.channel.sendall(data)
    assert host.process.wait(SECONDS) == 0
    assert host.process.stderr is not None
    assert host.process.stderr.read() == b""
