"""A real TPM 2.0 for tests: swtpm, and tokens of tpm2-pkcs11 on it, in a folder of its own.

Has the shape of `tests.tokens.SoftToken`. The TPM is a process: `stop`, `kill` and `start` are the plug.

Without a resource manager (`make_tpm(..., managed=False)`) a TPM has three places for loaded objects: a program uses
two keys at most, and each tpm2 tool leaves something loaded that has to be flushed. With one (tpm2-abrmd on a private
D-Bus) it behaves as `/dev/tpmrm0` does on a real machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.e2e.program import free_port
from tests.tokens import PIN, SO_PIN, change_objects, clean_environment

MODULES = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), MODULES[0])

_WRAPPED = ("tpm2_createprimary", "tpm2_create", "tpm2_load", "tpm2_unseal", "tpm2_readpublic", "tpm2_evictcontrol")
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>
"""
_OURS = ("TPM2_", "TPM2TOOLS_", "TSS2_", "DBUS_SESSION_BUS_ADDRESS")


@dataclass
class TpmToken:
    """One TPM with its store of tokens. `label` is the first token."""

    folder: Path
    label: str = "kmsd-test"
    managed: bool = False
    port: int = 0
    module: str = MODULE
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def device(self) -> str:
        """The TPM itself, as a TCTI name (TCG TSS 2.0 TCTI specification)."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    @property
    def flags(self) -> tuple[str, ...]:
        """For kmsd."""
        return (f"--p11-lib={MODULE}", f"--p11-label={self.label}", f"--p11-pin-file={self.pin_file}")

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: ours, without what would configure kmsd or another TPM, with this TPM."""
        tcti = "tabrmd:bus_type=session" if self.managed else self.device
        inherited = {k: v for k, v in clean_environment().items() if not k.startswith(_OURS)}
        bus = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._bus}"} if self.managed else {}
        return {
            **inherited,
            **bus,
            "TPM2_PKCS11_STORE": str(self.store),
            "TPM2_PKCS11_BACKEND": "esysdb",
            "TPM2_PKCS11_TCTI": tcti,
            "TPM2TOOLS_TCTI": tcti,
            "TSS2_LOG": "all+none",
        }

    @property
    def _bus(self) -> Path:
        return self.folder / "bus"

    # The plug.

    def start(self) -> Self:
        """Power it: swtpm, and the resource manager before it. Loaded objects and sessions are gone, keys are not."""
        for _ in range(5):
            self.port = self.port or free_port(2)
            self._spawn(
                "swtpm",
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'nv'}"),
                *("--server", f"type=tcp,port={self.port},bindaddr=127.0.0.1"),
                *("--ctrl", f"type=tcp,port={self.port + 1},bindaddr=127.0.0.1"),
                *("--flags", "not-need-init,startup-clear"),
            )
            if self._answers():
                break
            # Somebody took one of the two ports in between.
            self._end("swtpm", signal.SIGKILL)
            self.port = 0
        else:
            raise AssertionError((self.folder / "swtpm.log").read_text())
        if self.managed:
            self._start_manager()
        return self

    def stop(self) -> None:
        """Unplug it."""
        for name in ("tpm2-abrmd", "dbus", "swtpm"):
            self._end(name, signal.SIGTERM)

    def kill(self) -> None:
        """As a crash of the TPM, with nothing said to anybody; with a resource manager that one goes on."""
        self._end("swtpm", signal.SIGKILL)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """As if the TPM were gone for a while: killed, and started again at the end, at the same place. Its resource
        manager starts again with it, on the bus that goes on."""
        self.kill()
        try:
            yield
        finally:
            self._end("tpm2-abrmd", signal.SIGTERM)
            self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """As if the TPM had stopped answering: it is there, takes commands, and says nothing."""
        process = self._processes["swtpm"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def clear(self) -> None:
        """As an owner would who wipes the TPM: every key of it is worthless afterwards (TPM2_Clear)."""
        self.tool("tpm2_clear", "-c", "lockout")

    def flush(self) -> None:
        """What a killed program has left loaded in an unmanaged TPM, thrown out."""
        self.tool("tpm2_flushcontext", "-t", direct=True)
        self.tool("tpm2_flushcontext", "-l", direct=True)

    def forbid_guessing(self, tries: int = 3) -> None:
        """Lock after so many wrong PINs, as a TPM comes from the factory; this one never does otherwise."""
        self._lockout(tries, 1000)

    def lockout_counter(self) -> int:
        """Failed authorisations that the TPM remembers (TPM2_PT_LOCKOUT_COUNTER)."""
        said = self.tool("tpm2_getcap", "properties-variable")
        line = next(line for line in said.splitlines() if "TPM2_PT_LOCKOUT_COUNTER" in line)
        return int(line.split(":")[1], 0)

    # What is on it.

    def init_token(self, label: str) -> None:
        # These PINs open nothing.
        slots = ("--slot-index", str(len(self.labels)))
        self.tool("pkcs11-tool", "--module", MODULE, *slots, "--init-token", "--label", label, "--so-pin", SO_PIN)
        self.tool(
            *("pkcs11-tool", "--module", MODULE, "--token-label", label),
            *("--init-pin", "--so-pin", SO_PIN, "--pin", PIN),
        )
        self._flush_after_tools()

    @property
    def labels(self) -> list[str]:
        said = self.tool("pkcs11-tool", "--module", MODULE, "--list-token-slots")
        return [line.split(":", 1)[1].strip() for line in said.splitlines() if "token label" in line]

    def add_key(self, label: str, algorithm: str, cka_id: str) -> None:
        """algorithm: as tpm2_ptool calls it, aes256 or hmac:sha256 for example. cka_id: text."""
        self.tool(
            *("tpm2_ptool", "addkey", f"--algorithm={algorithm}", f"--label={self.label}", f"--userpin={PIN}"),
            *(f"--key-label={label}", f"--id={cka_id}"),
        )
        self._flush_after_tools()

    def add_pair(self, label: str, hmac_label: str, cka_id: str, hmac_id: str = "") -> None:
        """An AES and an HMAC key; with one CKA_ID unless hmac_id says another."""
        self.add_key(label, "aes256", cka_id)
        self.add_key(hmac_label, "hmac:sha256", hmac_id or cka_id)

    def relabel(self, label: str, to: str) -> None:
        self.objects({"do": "relabel", "label": label, "to": to})

    def destroy(self, label: str) -> None:
        self.objects({"do": "destroy", "label": label})

    def objects(self, *steps: Mapping[str, str]) -> None:
        """Run steps in another process, as any other program that uses the token would."""
        change_objects(MODULE, self.label, self.environment, steps)
        self._flush_after_tools()

    # How it runs.

    def tool(self, *command: str, direct: bool = False) -> str:
        """Run a program against this TPM; direct: past the resource manager. Returns its standard output."""
        environment = {**self.environment, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        if direct:
            environment["TPM2TOOLS_TCTI"] = self.device
        done = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _flush_after_tools(self) -> None:
        if not self.managed:
            self.tool("tpm2_flushcontext", "-t")

    def _lockout(self, tries: int, seconds: int) -> None:
        self.tool(
            *("tpm2_dictionarylockout", "--setup-parameters", f"--max-tries={tries}"),
            *(f"--recovery-time={seconds}", f"--lockout-recovery-time={seconds}"),
        )

    def _start_manager(self) -> None:
        if "dbus" not in self._processes:
            self._bus.unlink(missing_ok=True)
            self._spawn("dbus", "dbus-daemon", f"--config-file={self.folder / 'bus.conf'}", "--nofork", "--nopidfile")
            _wait(self._bus.exists)
        root = ("--allow-root",) if os.geteuid() == 0 else ()
        self._spawn("tpm2-abrmd", "tpm2-abrmd", *root, "--session", f"--tcti={self.device}")
        _wait(lambda: self._says("tpm2_getcap", "properties-fixed"))

    def _answers(self) -> bool:
        direct = {**self.environment, "TPM2TOOLS_TCTI": self.device}
        until = time.monotonic() + 20
        while self._processes["swtpm"].poll() is None and time.monotonic() < until:
            if self._says("tpm2_getcap", "properties-fixed", environment=direct):
                return True
            time.sleep(0.02)
        return False

    def _says(self, *command: str, environment: Mapping[str, str] | None = None) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=environment or self.environment, capture_output=True, timeout=2, check=False
            )
            return done.returncode == 0
        return False

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _end(self, name: str, number: int) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        # A stopped process takes nothing but SIGKILL before it goes on.
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_tpm(folder: Path, label: str = "kmsd-test", *, managed: bool = False) -> TpmToken:
    """A fresh TPM with one token, running; `stop` it at the end."""
    tpm = TpmToken(folder, label, managed)
    for part in ("nv", "store", "bin"):
        (folder / part).mkdir(parents=True)
    descriptor = os.open(tpm.pin_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(PIN + "\n")
    (folder / "bus.conf").write_text(_BUS.format(path=tpm._bus))
    if not managed:
        for name in _WRAPPED:
            _wrap(folder / "bin" / name)
    tpm.start()
    try:
        tpm._lockout(4294967295, 0)
        tpm.init_token(label)
    except BaseException:
        tpm.stop()
        raise
    return tpm


def _wrap(path: Path) -> None:
    """The tool of this name, and then what it has left in the TPM thrown out."""
    tool, flush = shutil.which(path.name), shutil.which("tpm2_flushcontext")
    path.write_text(f'#!/bin/sh\n{tool} "$@"\nrc=$?\n{flush} -t\nexit $rc\n')
    path.chmod(0o755)


def spies(folder: Path, seen: Path) -> str:
    """PATH with a directory before the tpm2 tools that writes down how they are called."""
    folder.mkdir()
    for tool in Path("/usr/bin").glob("tpm2_*"):
        spy = folder / tool.name
        spy.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word" >> {seen}; done\nexec {tool} "$@"\n')
        spy.chmod(0o755)
    (folder / "tpm2_ptool").unlink()
    (folder / "tpm2_ptool").symlink_to("/usr/bin/tpm2_ptool")
    return f"{folder}:{os.environ['PATH']}"


def _wait(what: object, timeout: float = 20.0) -> None:
    assert callable(what)
    until = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < until, "a part of the TPM does not start"
        time.sleep(0.02)
