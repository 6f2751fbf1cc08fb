"""A real kmsd in a process of its own, and clients of its two sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.forkserver import Popen
from tests.raw import unary
from tests.tokens import SoftToken, Token

KMSD = str(Path(sys.executable).with_name("kmsd"))
KMSCTL = str(Path(sys.executable).with_name("kmsctl"))
M = TypeVar("M", bound=Message)

_BEFORE_THE_LOG = re.compile(rb"(kmsd: (error|warning): |hint: )\S.*")
"""What kmsd says before its log begins, or where it ends in place of it: a command line or a configuration that is
wrong."""

_TRANSPORT = {"KMSD_KMS__TRANSPORT": os.environ["TEST_TRANSPORT"]} if "TEST_TRANSPORT" in os.environ else {}
"""TEST_TRANSPORT=grpcio make tests: every kmsd of a test that does not say otherwise has this one."""

_started: list[Kmsd] = []


def check_logs() -> None:
    """Fail if a kmsd that a test has started wrote a line since the last time that is not in the format of its log."""
    started = tuple(_started)
    _started[:] = [kmsd for kmsd in started if kmsd.process is not None and kmsd.process.poll() is None]
    for kmsd in started:
        kmsd.check_log()


def foreign_lines(text: bytes) -> list[bytes]:
    """Return the lines that are neither JSON lines of kmsd's log nor what kmsd says before its log begins."""
    return [line for line in text.splitlines() if not _BEFORE_THE_LOG.fullmatch(line) and not _of_the_log(line)]


def _of_the_log(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.keys() >= {"event", "level", "timestamp"}


def longer(pause: float, waited: float) -> float:
    """Seconds until one who has waited so long looks again: many who look often are what keeps them waiting."""
    return max(pause, min(0.25, 0.15 * waited))


def wait_for(what: Callable[..., Any], timeout: float = 20.0, pause: float = 0.02) -> Any:
    """What the function returns once that is true; fails with its last answer after `timeout` seconds."""
    began = time.monotonic()
    while True:
        answer = what()
        if answer:
            return answer
        waited = time.monotonic() - began
        assert waited < timeout, f"still {answer!r} after {timeout} s"
        time.sleep(longer(pause, waited))


@dataclass(eq=False)
class Kmsd:
    """`kmsd serve` on a token; leave out token for one without any module."""

    folder: Path
    token: Token | None
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    default_flags: bool = True
    command: Sequence[str] = (KMSD, "serve")
    logging: Sequence[str] = ("--log-level=debug", "--log-format=json")
    forked: bool = True
    """Whether it may begin as a fork (`tests.forkserver`)."""
    process: subprocess.Popen[bytes] | None = None
    _checked: int = 0
    """Bytes of the log that are known to be in its format."""
    _channels: list[grpc.Channel] = field(default_factory=list)

    @property
    def soft(self) -> SoftToken:
        """The token, for what a test does to it from elsewhere. Fails if it is no SoftHSM."""
        assert isinstance(self.token, SoftToken)
        return self.token

    @property
    def socket(self) -> Path:
        return self.folder / "kms" / "kms.sock"

    @property
    def own_socket(self) -> Path:
        """The KMS socket of this process, even if calls go to another's."""
        return self.socket

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin" / "admin.sock"

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    @property
    def arguments(self) -> list[str]:
        flags = [
            f"--socket={self.own_socket}",
            f"--admin-socket={self.admin_socket}",
            f"--state-dir={self.folder / 'state'}",
        ]
        if self.token is not None and self.default_flags:
            flags += [
                "--provider=softhsm",
                f"--p11-label={self.token.label}",
                f"--p11-pin-file={self.token.pin_file}",
            ]
        return [*self.command, *flags, *self.logging, *self.flags]

    def start(self, *, wait: bool = True) -> Self:
        """Start it; wait: until its admin socket answers."""
        assert self.token is not None
        environment = {**self.token.environment, **_TRANSPORT, **self.environment}
        self._checked = min(self._checked, self.log_file.stat().st_size if self.log_file.exists() else 0)
        with self.log_file.open("ab") as log:
            start = Popen if self.forked else subprocess.Popen
            self.process = start(self.arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if self not in _started:
            _started.append(self)
        if wait:
            wait_for(self._answers)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_text()
        if not self.admin_socket.exists() or not self.socket.exists():
            return False
        try:
            self.status()
        except grpc.RpcError:
            return False
        return True

    def wait_ok(self, timeout: float = 20.0) -> Self:
        try:
            wait_for(lambda: self.v2("Status").healthz == "ok", timeout)
        except AssertionError as error:
            told = [problem.message for problem in self.status().problems]
            raise AssertionError(f"not ok after {timeout} s: {told}") from error
        return self

    def hosts(self) -> list[int]:
        """The processes that have the modules of its tokens loaded."""
        assert self.process is not None
        found = []
        for each in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            # One that has just ended has no command line any more.
            with contextlib.suppress(OSError):
                if b"kmsd.hsm.host" in Path(f"/proc/{each}/cmdline").read_bytes():
                    found.append(int(each))
        return found

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Signal it and wait. Returns the exit code."""
        assert self.process is not None
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if self in _started:
            self.check_log()
        return code

    def __enter__(self) -> Self:
        return self if self.process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_log(self) -> None:
        """Fail if a whole line of the log since the last check is not in its format."""
        fresh = self.log_file.read_bytes()[self._checked :] if self.log_file.exists() else b""
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._checked += len(whole)
        strange = foreign_lines(whole)
        assert not strange, f"kmsd wrote what is no line of its log: {strange[:20]}"

    def log_text(self) -> str:
        return self.log_file.read_text()

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def audit_records(self) -> list[dict[str, Any]]:
        """The records of admin actions and events, as they are in the file."""
        return [json.loads(line) for line in (self.folder / "state" / "audit.jsonl").read_text().splitlines()]

    def channel(self, path: Path | None = None, *options: tuple[str, Any]) -> grpc.Channel:
        channel = grpc.insecure_channel(f"unix:{path or self.socket}", options=list(options))
        self._channels.append(channel)
        return channel

    def v2(self, method: str, request: Message | None = None, timeout: float = 5.0) -> Any:
        """Call the v2 API: v2("Encrypt", v2.EncryptRequest(...))."""
        return self._call(self.socket, "v2.KeyManagementService", v2, method, request, timeout)

    def v1beta1(self, method: str, request: Message | None = None, timeout: float = 5.0) -> Any:
        return self._call(self.socket, "v1beta1.KeyManagementService", v1beta1, method, request, timeout)

    def admin(self, method: str, request: Message | None = None, timeout: float = 10.0) -> Any:
        return self._call(self.admin_socket, "kmsd.admin.v1.Admin", admin_pb2, method, request, timeout)

    def status(self) -> admin_pb2.GetStatusResponse:
        answer: admin_pb2.GetStatusResponse = self.admin("GetStatus")
        return answer

    def raw(self, path: str, body: bytes, timeout: float = 5.0, *, admin: bool = False) -> bytes:
        """Any bytes to any method of the KMS socket, or of the admin socket."""
        channel = self._shared(self.admin_socket if admin else self.socket)
        return unary(channel, path)(body, timeout=timeout)

    def _shared(self, path: Path) -> grpc.Channel:
        for channel in self._channels:
            if getattr(channel, "kmsd_path", None) == path:
                return channel
        channel = self.channel(path)
        channel.kmsd_path = path  # type: ignore[attr-defined]
        return channel

    def _call(
        self, socket: Path, service: str, module: Any, method: str, request: Message | None, timeout: float
    ) -> Any:
        request = request if request is not None else getattr(module, f"{method}Request")()
        call: grpc.UnaryUnaryMultiCallable[Message, Any] = self._shared(socket).unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(module, f"{method}Response").FromString,
        )
        return call(request, timeout=timeout)

    def keygen(self, label: str = "k8s-kek", **fields: Any) -> admin_pb2.Key:
        answer: admin_pb2.GenerateKeyResponse = self.admin(
            "GenerateKey", admin_pb2.GenerateKeyRequest(label=label, type=admin_pb2.KEY_TYPE_AES, **fields)
        )
        return answer.key


@contextlib.contextmanager
def starting(folder: Path, token: Any) -> Iterator[Callable[..., Kmsd]]:
    """A function that starts a kmsd on the token, as often as it is called, each in a folder of its own by its name;
    all are stopped at the end."""
    running: list[Kmsd] = []

    def start(*flags: str, name: str = "d", wait: bool = True, **fields: Any) -> Kmsd:
        its = folder / name
        its.mkdir(exist_ok=True)
        kmsd = Kmsd(its, token, flags, **fields)
        running.append(kmsd)
        return kmsd.start(wait=wait)

    yield start
    for kmsd in running:
        if kmsd.process is not None and kmsd.process.poll() is None:
            kmsd.stop()
