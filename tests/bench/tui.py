"""What kmstui costs while kmsd is busy, and how long a key press takes to show; printed.

kmstui runs in a pseudo terminal of 160x50. Under load: a real kmsd on SoftHSM, and h2load with 2,000 requests a second.
With many keys: a gRPC server with 10,000 keys written down, because making as many on SoftHSM takes longer than this.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client import connect
from tests.ctl.canned import Canned, serve
from tests.daemons import Kmsd
from tests.tokens import clean_environment, make_token

KMSTUI = str(Path(sys.executable).with_name("kmstui"))
RATE = 2000
SECONDS = 10
KEYS = 10_000
PRESSES = 40
_ESCAPES = re.compile(r"\x1b\[[0-9;?<=>]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b.")


class Program:
    """kmstui in a pseudo terminal whose output is read as fast as it comes."""

    def __init__(self, target: Path, state: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = {**clean_environment(), "TERM": "xterm-256color", "XDG_STATE_HOME": str(state)}
            os.execve(KMSTUI, [KMSTUI, f"--target={target}"], environment)  # noqa: S606 - a program of ours, no shell
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self._lock = threading.Condition()
        self._text = ""
        self.octets = 0
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self._terminal, b"\x1b")
            os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 65536):
                with self._lock:
                    self.octets += len(data)
                    self._text += data.decode(errors="replace")
                    self._lock.notify_all()

    def press(self, keys: str, until: str, timeout: float = 30.0) -> float:
        """Seconds from the key press until the text has been written to the terminal."""
        with self._lock:
            self._text = ""
        began = time.perf_counter()
        os.write(self._terminal, keys.encode())
        with self._lock:
            if not self._lock.wait_for(lambda: until in _ESCAPES.sub("", self._text), timeout):
                raise SystemExit(f"kmstui did not show {until!r} after {keys!r}")
        return time.perf_counter() - began

    def seconds_used(self) -> float:
        """Of the processor, by all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kt") as name:
        folder = Path(name)
        _under_load(folder)
        _many_keys(folder)


def _under_load(folder: Path) -> None:
    token = make_token(folder / "token")
    (folder / "d").mkdir()
    with Kmsd(folder / "d", token, ("--log-level=info", "--auto-create")) as kmsd:
        kmsd.wait_ok()
        with _load(kmsd, folder), Program(kmsd.admin_socket, folder / "state") as kmstui:
            kmstui.press("", "SERVING")
            with connect(f"unix://{kmsd.admin_socket}") as client, client.watch_stats(history=3) as frames:
                seconds = next(iter(frames)).seconds
            print(f"kmsd answers {sum(each.requests for each in seconds) / len(seconds):.0f} requests a second")
            for key, title in (("1", "Last events"), ("4", "Requests (")):
                kmstui.press(key, title)
                _cost(kmstui, title.split(" (")[0])
            _typing(kmstui)


def _cost(kmstui: Program, screen: str) -> None:
    time.sleep(2)
    used, began, octets = kmstui.seconds_used(), time.perf_counter(), kmstui.octets
    time.sleep(SECONDS)
    elapsed = time.perf_counter() - began
    share = 100 * (kmstui.seconds_used() - used) / elapsed
    written = (kmstui.octets - octets) / elapsed / 1024
    print(f"kmstui under {RATE}/s, {screen:22} {share:8.1f} % of a core   (goal: < 15), {written:.1f} KiB/s written")


def _typing(kmstui: Program) -> None:
    """Characters typed into the filter, until each stands in the title of the table."""
    kmstui.press("/", "regular expression")
    typed, taken = "", []
    for number in range(PRESSES // 2):
        typed += "abcdefghij"[number % 10]
        taken.append(kmstui.press(typed[-1], f"/{typed}"))
    _lag("typing under load", taken)
    kmstui.press("\x1b", "Requests (")


def _lag(what: str, taken: list[float]) -> None:
    middle, worst = statistics.median(taken) * 1000, max(taken) * 1000
    print(f"{what:36} {middle:8.0f} ms median, {worst:.0f} ms at worst   (goal: < 100)")


def _many_keys(folder: Path) -> None:
    directory = folder / "canned"
    directory.mkdir()
    canned = Canned(directory, keys=[_key(number) for number in range(KEYS)], page=500)
    with serve(canned) as server, Program(server.admin, folder / "state2") as kmstui:
        kmstui.press("", "SERVING")
        shown = kmstui.press("3", f"Keys ({KEYS:,})")
        print(f"{'10,000 keys on the screen after':36} {shown * 1000:8.0f} ms, {kmstui.resident():.0f} MiB resident")
        time.sleep(1)
        taken = [kmstui.press("\x1b[B", f"key-{row:05}") for row in range(1, PRESSES + 1)]
        _lag("a row down in 10,000", taken)
        taken = [kmstui.press("G", f"key-{KEYS - 1:05}"), kmstui.press("g", "key-00000")]
        _lag("to the last of 10,000 and back", taken)
        kmstui.press("/", "regular expression")
        typed, taken = "", []
        for character in "key-0999":
            typed += character
            taken.append(kmstui.press(character, f"/{typed}"))
        _lag("typing a filter over 10,000", taken)


def _key(number: int) -> pb.Key:
    identity = f"0192c3a1-77f0-7b1e-9c55-{number:012}"
    return pb.Key(
        label=f"key-{number:05}",
        key_id=identity,
        key_id_sha256=hashlib.sha256(identity.encode()).hexdigest(),
        state=pb.KEY_STATE_READABLE,
        type=pb.KEY_TYPE_AES,
        bits=256,
        can_encrypt=True,
        can_decrypt=True,
        token_label="bench",
        token="bench",
    )


@contextlib.contextmanager
def _load(kmsd: Kmsd, folder: Path) -> Iterator[None]:
    """2,000 Decrypts a second."""
    made = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"p" * 32, uid="bench"))
    request = v2.DecryptRequest(ciphertext=made.ciphertext, uid="0192c3a1-77f0-7b1e", key_id=made.key_id)
    body = folder / "decrypt"
    data = request.SerializeToString()
    body.write_bytes(b"\0" + struct.pack(">I", len(data)) + data)
    command = [
        "h2load", "--duration=300", f"--rps={RATE}", "--clients=1", "--max-concurrent-streams=16", f"--data={body}",
        "--header=content-type: application/grpc", "--header=te: trailers", f"--base-uri=unix:{kmsd.socket}",
        "http://localhost/v2.KeyManagementService/Decrypt",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            time.sleep(3)
            yield
        finally:
            load.terminate()


if __name__ == "__main__":
    main()
