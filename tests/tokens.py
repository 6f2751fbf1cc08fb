"""Real SoftHSM tokens for tests, each in a folder of its own, changed only from other processes.

A test process never loads the PKCS#11 module itself: a module is one per process, and some tests crash theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests import forkserver

PIN = "1234-user"
SO_PIN = "1234-so"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
MODULE = next((path for path in MODULES if Path(path).exists()), MODULES[0])


class Token(Protocol):
    """What the tokens of this module, tests.chaos, tests.tpm and tests.opencryptoki have in common."""

    @property
    def label(self) -> str: ...
    @property
    def pin_file(self) -> Path: ...
    @property
    def environment(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class SoftToken:
    """One SoftHSM installation: a configuration file, and tokens under it. `label` is the first token."""

    folder: Path
    label: str = "kmsd-test"

    @property
    def conf(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: ours, without what would configure kmsd, with this SoftHSM."""
        return {**clean_environment(), "SOFTHSM2_CONF": str(self.conf)}

    @property
    def tokens(self) -> Path:
        """The directory that holds one directory per token."""
        return self.folder / "tokens"

    def logins(self) -> int:
        """Goes up by one with every attempt to log in to the one token, right or wrong: SoftHSM writes the token's
        flags each time, and a count of the writes."""
        (path,) = self.tokens.glob("*/token.object")
        return int.from_bytes(path.read_bytes()[:8], "big")

    @contextlib.contextmanager
    def away(self, *, empty: bool = False) -> Iterator[None]:
        """As if the device were unplugged: the files of all tokens are gone, and come back at the end.

        empty: their directory is there and has nothing in it, as when a file system is not mounted.
        """
        elsewhere = self.folder / "unplugged"
        self.tokens.rename(elsewhere)
        if empty:
            self.tokens.mkdir()
        try:
            yield
        finally:
            if empty:
                self.tokens.rmdir()
            elsewhere.rename(self.tokens)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """As if the device had stopped answering: SoftHSM locks a token's files (fcntl(2)) for every operation with
        a key, and waits inside the C call while this process holds the lock."""
        with contextlib.ExitStack() as held:
            for path in self.tokens.glob("*/*"):
                file = held.enter_context(path.open("r+b"))
                fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def init_token(self, label: str) -> None:
        # These PINs open nothing; softhsm2-util takes PINs no other way.
        self._run("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN)

    def import_aes(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        """A key with a known value; cka_id None: without CKA_ID."""
        self.objects({"do": "import", "type": "aes", "label": label, "value": value.hex(), "id": _hex(cka_id)})

    def import_hmac(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        self.objects({"do": "import", "type": "hmac", "label": label, "value": value.hex(), "id": _hex(cka_id)})

    def plant(self, *steps: Mapping[str, str]) -> None:
        """Run steps as somebody who reaches the token and has no PIN: what is made is a public object."""
        change_objects(MODULE, self.label, self.environment, [{**step, "public": "yes"} for step in steps], pin="")

    def relabel(self, label: str, to: str) -> None:
        self.objects({"do": "relabel", "label": label, "to": to})

    def destroy(self, label: str) -> None:
        self.objects({"do": "destroy", "label": label})

    def objects(self, *steps: Mapping[str, str], token: str = "") -> None:
        """Run steps in another process, as any other program that uses the token would."""
        change_objects(MODULE, token or self.label, self.environment, steps)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class Fronted:
    """A SoftHSM that is reached through another module. `behind` is the SoftHSM itself, for changes from elsewhere."""

    behind: SoftToken
    module: str

    @property
    def folder(self) -> Path:
        return self.behind.folder

    @property
    def label(self) -> str:
        return self.behind.label

    @property
    def pin_file(self) -> Path:
        return self.behind.pin_file

    @property
    def flags(self) -> tuple[str, ...]:
        """For kmsd."""
        return (f"--p11-lib={self.module}", f"--p11-label={self.label}", f"--p11-pin-file={self.pin_file}")

    def init_token(self, label: str) -> None:
        self.behind.init_token(label)

    def import_aes(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        self.behind.import_aes(label, value, cka_id)

    def import_hmac(self, label: str, value: bytes, cka_id: bytes | None) -> None:
        self.behind.import_hmac(label, value, cka_id)

    def relabel(self, label: str, to: str) -> None:
        self.behind.relabel(label, to)

    def destroy(self, label: str) -> None:
        self.behind.destroy(label)

    def objects(self, *steps: Mapping[str, str]) -> None:
        self.behind.objects(*steps)


def change_objects(
    module: str,
    token: str,
    environment: Mapping[str, str],
    steps: Sequence[Mapping[str, str]],
    *,
    pin: str = PIN,
    python: Sequence[str] = (sys.executable,),
) -> None:
    """Import, relabel and destroy objects on a token through any PKCS#11 module, in a process made for it."""
    job = {"module": module, "token": token, "pin": pin, "steps": steps}
    done = forkserver.run(
        [*python, "-m", "tests.objects"],
        cwd=Path(__file__).parents[1],
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def clean_environment() -> dict[str, str]:
    ours = ("KMSD_", "KMSCTL_", "P11_", "SOCKET", "SOFTHSM2_CONF", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def make_token(folder: Path, label: str = "kmsd-test") -> SoftToken:
    """A fresh SoftHSM with one token."""
    token = SoftToken(folder, label)
    token.tokens.mkdir(parents=True)
    token.conf.write_text(
        f"directories.tokendir = {token.tokens}\nobjectstore.backend = file\n"
        "log.level = ERROR\nslots.removable = false\n"
    )
    descriptor = os.open(token.pin_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(PIN + "\n")
    token.init_token(label)
    return token


def _hex(data: bytes | None) -> str:
    return data.hex() if data is not None else ""
