"""openCryptoki's software token for tests, each in a namespace of its own.

openCryptoki knows one place on a machine for its configuration, its tokens, its locks and its daemon's socket. So
`pkcsslotd` runs in a mount namespace of its own where those places are folders of the test, and every program that
uses the token enters it first (`enter`). That takes root, as in a container or a CI job; nothing outside is touched.

Has the shape of `tests.tokens.SoftToken` otherwise. PINs have 4 to 8 characters here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.tokens import change_objects, clean_environment

MODULES = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/libopencryptoki.so",
    "/usr/lib64/pkcs11/libopencryptoki.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), MODULES[0])
PIN = "12345678"
SO_PIN = "87654321"
"""The one that every new token of openCryptoki has."""

_SETUP = """
set -e
umask 007
for folder in lib/swtok/TOK_OBJ lock/swtok etc; do mkdir -p "$1/$folder"; done
printf 'version opencryptoki-3.1\\nslot 0\\n{\\nstdll = libpkcs11_sw.so\\n}\\n' > "$1/etc/opencryptoki.conf"
chgrp -R pkcs11 "$1/lib" "$1/lock"
chmod -R g+rwX "$1/lib" "$1/lock"
mount -t tmpfs tmpfs /run
mkdir -p /run/lock/opencryptoki
mount -t tmpfs tmpfs /dev/shm
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/lock" /var/lock/opencryptoki
mount --bind "$1/etc" /etc/opencryptoki
echo $$ > "$1/daemon"
exec pkcsslotd -f
"""


@dataclass
class OpenCryptokiToken:
    """One openCryptoki with its software token. `label` is that token's."""

    folder: Path
    label: str = "kmsd-test"
    module: str = MODULE
    _process: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def daemon(self) -> int:
        """Process id of pkcsslotd."""
        return int((self.folder / "daemon").read_text())

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to use the token."""
        return ("nsenter", f"--target={self.daemon}", "--mount", "--ipc", "--")

    @property
    def flags(self) -> tuple[str, ...]:
        """For kmsd."""
        return (f"--p11-lib={MODULE}", f"--p11-label={self.label}", f"--p11-pin-file={self.pin_file}")

    @property
    def environment(self) -> dict[str, str]:
        inherited = clean_environment()
        return {**inherited, "PATH": f"{inherited.get('PATH', '')}:/usr/sbin"}

    def start(self) -> Self:
        (self.folder / "daemon").unlink(missing_ok=True)
        with (self.folder / "pkcsslotd.log").open("ab") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "--ipc", "sh", "-c", _SETUP, "sh", str(self.folder)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._process.append(process)
        until = time.monotonic() + 20
        while not self._answers():
            assert process.poll() is None, (self.folder / "pkcsslotd.log").read_text()
            assert time.monotonic() < until, "pkcsslotd does not start"
            time.sleep(0.05)
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon. Programs that use the token lose it, and find the next daemon only when started anew."""
        while self._process:
            process = self._process.pop()
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """As if the device were unplugged: its objects are gone, and come back at the end."""
        place, elsewhere = self.folder / "lib" / "swtok", self.folder / "lib" / "unplugged"
        place.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(place)

    def import_aes(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        self._import("aes", label, value, cka_id)

    def import_hmac(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        self._import("hmac", label, value, cka_id)

    def _import(self, kind: str, label: str, value: bytes, cka_id: bytes | None) -> None:
        cka = cka_id.hex() if cka_id is not None else ""
        self.objects({"do": "import", "type": kind, "label": label, "value": value.hex(), "id": cka})

    def relabel(self, label: str, to: str) -> None:
        self.objects({"do": "relabel", "label": label, "to": to})

    def destroy(self, label: str) -> None:
        self.objects({"do": "destroy", "label": label})

    def objects(self, *steps: Mapping[str, str]) -> None:
        """Run steps in another process, as any other program that uses the token would."""
        change_objects(MODULE, self.label, self.environment, steps, pin=PIN, python=(*self.enter, sys.executable))

    def tool(self, *command: str) -> str:
        """Run a program in the token's namespace. Returns its standard output."""
        done = subprocess.run(
            [*self.enter, *command], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _answers(self) -> bool:
        if not (self.folder / "daemon").exists():
            return False
        with contextlib.suppress(AssertionError, ValueError, subprocess.TimeoutExpired):
            return "Slot" in self.tool("pkcs11-tool", "--module", MODULE, "--list-slots")
        return False


def make_opencryptoki(folder: Path, label: str = "kmsd-test") -> OpenCryptokiToken:
    """A fresh openCryptoki with one token, running; `stop` it at the end."""
    folder.mkdir(parents=True)
    token = OpenCryptokiToken(folder, label)
    descriptor = os.open(token.pin_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(PIN + "\n")
    token.start()
    try:
        # These PINs open nothing.
        here = ("pkcs11-tool", "--module", MODULE, "--slot", "0")
        token.tool(*here, "--init-token", "--label", label, "--so-pin", SO_PIN)
        token.tool(*here, "--init-pin", "--login", "--login-type", "so", "--so-pin", SO_PIN, "--pin", PIN)
    except BaseException:
        token.stop()
        raise
    return token
