"""The servers that are measured: kmsd, servers that do nothing or nothing but the token's calls, and peers.

PEERS names a folder with the programs of others: `k8s-kms-plugin` (https://github.com/ThalesGroup/k8s-kms-plugin) and
`mock-kms` (kubernetes, staging/src/k8s.io/kms/internal/plugins/_mock).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.bench.burst import framed
from tests.chaos import ChaosToken
from tests.daemons import Kmsd, wait_for
from tests.tokens import MODULE, PIN, SoftToken

Token = SoftToken | ChaosToken
BARE: Final = ("bare h2corn", "bare grpcio", "h2corn and SoftHSM's calls", "grpcio and SoftHSM's calls")
PLUGIN: Final = "k8s-kms-plugin"
PEERS: Final = (PLUGIN, "mock-kms")
_READY_SECONDS: Final = 10.0
_PLAINTEXT: Final = b"p" * 32
_MOCK_LABEL: Final = "kms-test"
"""What mock-kms calls its key."""


@dataclass(frozen=True)
class Server:
    """One that runs. messages: by API and method, the request, framed and in a file, and the bytes of its answer."""

    name: str
    socket: Path
    process: int
    messages: Mapping[tuple[str, str], tuple[Path, int]]
    kmsd: Kmsd | None = None

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        found, more = [], [self.process]
        while more:
            found += more
            more = [
                int(child)
                for pid in more
                for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        return found


@contextlib.contextmanager
def kmsd(folder: Path, token: Token, transport: str, *flags: str, name: str = "") -> Iterator[Server]:
    """kmsd with its settings as they are, but for the level of its log."""
    folder.mkdir()
    environment = {**token.environment, "KMSD_KMS__TRANSPORT": transport}
    chaotic = isinstance(token, ChaosToken)
    given = [*flags, "--log-level=warning", *(token.flags if isinstance(token, ChaosToken) else ())]
    with Kmsd(folder, token, given, environment, default_flags=not chaotic) as running:
        running.wait_ok(60.0)
        assert running.process is not None
        name = name or f"kmsd, {transport}"
        yield Server(name, running.socket, running.process.pid, ask_for_messages(folder, running.socket), running)


@contextlib.contextmanager
def bare(folder: Path, token: SoftToken, name: str) -> Iterator[Server]:
    """A server that does nothing with what it is asked, or has the token encrypt on its event loop."""
    folder.mkdir()
    socket = folder / "s"
    how = "nothing" if name.startswith("bare") else "calls"
    transport = "h2corn" if "h2corn" in name else "grpcio"
    command = [sys.executable, "-m", "tests.bench.bare", str(socket), transport, how]
    with _started(command, {**os.environ, **token.environment, "PIN_FILE": str(token.pin_file)}, socket) as pid:
        yield Server(name, socket, pid, ask_for_messages(folder, socket, same=True))


def peers() -> list[str]:
    """The names of those that are there."""
    folder = os.environ.get("PEERS", "")
    return [name for name in PEERS if folder and os.access(Path(folder) / name, os.X_OK)]


@contextlib.contextmanager
def peer(folder: Path, token: Token, name: str) -> Iterator[Server]:
    """A program of others on this token, with AES-GCM."""
    folder.mkdir()
    socket, program = folder / "s", str(Path(os.environ["PEERS"]) / name)
    module = token.module if isinstance(token, ChaosToken) else MODULE
    if name == "mock-kms":
        with contextlib.suppress(AssertionError):
            token.import_aes(_MOCK_LABEL, os.urandom(32), _MOCK_LABEL.encode())
        config = folder / "config.json"
        config.write_text(json.dumps({"Path": module, "TokenLabel": token.label, "Pin": PIN}))
        command = [program, f"-listen-addr=unix://{socket}", f"-config-file-path={config}"]
    else:
        command = [
            *(program, "serve", "--provider=p11", f"--p11-lib={module}", f"--p11-label={token.label}"),
            *(f"--p11-pin={PIN}", "--p11-key-label=peers-key", "--auto-create", "--algorithm=aes-gcm"),
            f"--socket={socket}",
        ]
    with _started(command, token.environment, socket, folder) as pid:
        yield Server(name, socket, pid, ask_for_messages(folder, socket))


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], socket: Path, cwd: Path | None = None
) -> Iterator[int]:
    with (socket.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd
        )
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} ended: {(socket.parent / 'log').read_text()[-2000:]}")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask_for_messages(folder: Path, socket: Path, *, same: bool = False) -> dict[tuple[str, str], tuple[Path, int]]:
    """Ask once for everything, and keep what is to be asked for again; what is not there is left out. same: its answers
    are no ciphertexts, and it takes any bytes."""
    made: dict[tuple[str, str], tuple[Path, int]] = {}
    until = time.monotonic() + _READY_SECONDS
    with grpc.insecure_channel(f"unix:{socket}") as channel:

        def ask(api: str, method: str, request: Any, answer: Any) -> Any:
            call: Any = channel.unary_unary(f"/{api}.KeyManagementService/{method}")
            body = request.SerializeToString()
            while True:
                try:
                    raw = call(body, timeout=20.0, wait_for_ready=True)
                    break
                except grpc.RpcError as error:
                    # A server that answers may have no key yet.
                    code: Any = getattr(error, "code", lambda: None)()
                    if code is grpc.StatusCode.UNIMPLEMENTED or time.monotonic() > until:
                        raise
                    time.sleep(0.1)
            if raw is None:
                # k8s-kms-plugin ends a call that it does not know with OK and without an answer.
                raise grpc.RpcError(f"no answer to {api} {method}")
            told = answer.FromString(raw)
            path = folder / f"{api}-{method}"
            path.write_bytes(framed(body))
            made[api, method] = path, len(raw)
            return told

        with contextlib.suppress(grpc.RpcError):
            ask("v2", "Status", v2.StatusRequest(), v2.StatusResponse)
            sealed = ask("v2", "Encrypt", v2.EncryptRequest(plaintext=_PLAINTEXT, uid="0192c3a1"), v2.EncryptResponse)
            back = v2.DecryptRequest(
                ciphertext=sealed.ciphertext, key_id=sealed.key_id, annotations=sealed.annotations, uid="0192c3a1"
            )
            opened = ask("v2", "Decrypt", back, v2.DecryptResponse)
            assert same or opened.plaintext == _PLAINTEXT
        with contextlib.suppress(grpc.RpcError):
            ask("v1beta1", "Version", v1beta1.VersionRequest(version="v1beta1"), v1beta1.VersionResponse)
            old = ask(
                *("v1beta1", "Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=_PLAINTEXT)),
                v1beta1.EncryptResponse,
            )
            ask(
                *("v1beta1", "Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=old.cipher)),
                v1beta1.DecryptResponse,
            )
    if not made:
        raise SystemExit(f"{socket} answers neither API")
    return made
