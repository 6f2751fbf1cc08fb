"""The faults of which docs/RELIABILITY.md tells: what each is called, and how it is brought about and taken away."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.chaos.measuring import PASSING, Act, Fault, Rig
from tests.tokens import MODULE, PIN, SO_PIN, SoftToken

RETURNS: Final = {
    "DEVICE_ERROR": 0x30,
    "DEVICE_REMOVED": 0x32,
    "DEVICE_MEMORY": 0x31,
    "TOKEN_NOT_PRESENT": 0xE0,
    "GENERAL_ERROR": 0x05,
    "FUNCTION_FAILED": 0x06,
    "HOST_MEMORY": 0x02,
    "SESSION_HANDLE_INVALID": 0xB3,
    "SESSION_CLOSED": 0xB0,
    "KEY_HANDLE_INVALID": 0x60,
    "OPERATION_ACTIVE": 0x90,
    "USER_NOT_LOGGED_IN": 0x101,
    "SESSION_COUNT": 0xB1,
    "CRYPTOKI_NOT_INITIALIZED": 0x190,
}
OPERATIONS: Final = {
    "encrypt": "C_EncryptInit",
    "decrypt": "C_DecryptInit",
    "random": "C_GenerateRandom",
    "login": "C_Login",
    "list": "C_FindObjectsInit",
}
NO_OVERRIDE: Final = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command: root obeys the modes of files."""
_REFUSED: Final = PASSING | {"FAILED_PRECONDITION"}


def _behave(*lines: str, kill: bool = False) -> Act:
    """The token does what `chaos.c` is told. kill: the host is killed, so that another one has to begin."""

    @contextlib.contextmanager
    def act(rig: Rig) -> Iterator[None]:
        with rig.token.told(*lines):
            if kill:
                _signal_hosts(rig, signal.SIGKILL)
            yield

    return act


def _signal_hosts(rig: Rig, number: int) -> None:
    for host in rig.kmsd.hosts():
        with contextlib.suppress(ProcessLookupError):
            os.kill(host, number)


@contextlib.contextmanager
def _away(rig: Rig) -> Iterator[None]:
    with rig.token.away():
        yield


@contextlib.contextmanager
def _empty(rig: Rig) -> Iterator[None]:
    with rig.token.away(empty=True):
        yield


@contextlib.contextmanager
def _locked(rig: Rig) -> Iterator[None]:
    with rig.token.hanging():
        yield


def _hosts_get(number: int) -> Act:
    @contextlib.contextmanager
    def act(rig: Rig) -> Iterator[None]:
        _signal_hosts(rig, number)
        yield

    return act


@contextlib.contextmanager
def _killed_again_and_again(rig: Rig) -> Iterator[None]:
    for _ in range(6):
        _signal_hosts(rig, signal.SIGKILL)
        time.sleep(0.25)
    yield


@contextlib.contextmanager
def _daemon_killed(rig: Rig) -> Iterator[None]:
    """kmsd itself: whoever supervises it starts it again."""
    rig.kmsd.stop(signal.SIGKILL)
    rig.kmsd.start()
    yield


@contextlib.contextmanager
def _daemon_ended(rig: Rig) -> Iterator[None]:
    assert rig.kmsd.stop(signal.SIGTERM) == 0
    rig.kmsd.start()
    yield


@contextlib.contextmanager
def _storm(rig: Rig) -> Iterator[None]:
    for _ in range(200):
        os.kill(rig.pid, signal.SIGHUP)
        time.sleep(0.003)
    yield


def _limit(what: int, most: Callable[[Rig], int], then: Callable[[Rig], None] = lambda _: None) -> Act:
    """kmsd, as it runs, gets no more than so much of a resource."""

    @contextlib.contextmanager
    def act(rig: Rig) -> Iterator[None]:
        before = resource.prlimit(rig.pid, what)
        resource.prlimit(rig.pid, what, (most(rig), before[1]))
        try:
            then(rig)
            yield
        finally:
            for process in (rig.pid, *_beside(rig)):
                resource.prlimit(process, what, before)

    return act


def _descriptors(rig: Rig) -> int:
    return len(list(Path(f"/proc/{rig.pid}/fd").iterdir())) + 1


@contextlib.contextmanager
def _read_only(rig: Rig) -> Iterator[None]:
    """The state directory of both kmsd."""
    folders = [folder / "state" for folder in (rig.kmsd.folder, rig.beside)]
    for folder in folders:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o500)
    _signal_hosts(rig, signal.SIGKILL)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o700)


@contextlib.contextmanager
def _clock(rig: Rig) -> Iterator[None]:
    clock = rig.folder / "clock"
    clock.write_text("-3600")
    try:
        yield
    finally:
        clock.unlink()


@contextlib.contextmanager
def _pin_changed(rig: Rig) -> Iterator[None]:
    """On the token, and later in the file, with a reload."""
    fresh = "4321-other"
    soft: SoftToken = rig.token.behind
    login = ("--login", "--login-type", "so", "--so-pin", SO_PIN)
    subprocess.run(
        ["pkcs11-tool", "--module", MODULE, "--token-label", soft.label, *login, "--init-pin", "--pin", fresh],
        env=soft.environment,
        check=True,
        capture_output=True,
        timeout=20,
    )
    _signal_hosts(rig, signal.SIGKILL)
    yield
    assert PIN in soft.pin_file.read_text()
    soft.pin_file.write_text(fresh + "\n")
    _reload(rig)


def _reload(rig: Rig) -> None:
    os.kill(rig.pid, signal.SIGHUP)
    for process in _beside(rig):
        os.kill(process, signal.SIGHUP)


def _beside(rig: Rig) -> list[int]:
    """Processes that serve in the folder beside."""
    return [each.process.pid for each in rig.others if each.process is not None and each.process.poll() is None]


@contextlib.contextmanager
def _pin_locked(rig: Rig) -> Iterator[None]:
    with rig.token.told("C_Login rv=0xA4"):
        _signal_hosts(rig, signal.SIGKILL)
        yield
    _reload(rig)


def _short(name: str, group: str, title: str, act: Act, **more: Any) -> Fault:
    """A fault that is over as soon as it has begun."""
    return Fault(name, group, title, act, seconds=0, start=False, **more)


def _matrix() -> Iterator[Fault]:
    for name, value in RETURNS.items():
        for operation, function in OPERATIONS.items():
            login = operation == "login"
            # A listing and random bytes are fetched ahead: what is remembered serves on.
            sure = operation in ("encrypt", "decrypt")
            yield Fault(
                f"{name}-{operation}".lower(),
                "The token answers with an error",
                f"{function}: CKR_{name}" + (", and the host is killed" if login else ""),
                _behave(f"{function} rv={value:#x}", kill=login),
                on="shared",
                fails=True if sure else None,
            )


def _returns() -> Sequence[Fault]:
    group = "The token answers with an error"
    return (
        *_matrix(),
        Fault("device-removed-all", group, "every call: CKR_DEVICE_REMOVED", _behave("* rv=0x32"), on="shared"),
        Fault("token-not-present-all", group, "every call: CKR_TOKEN_NOT_PRESENT", _behave("* rv=0xE0"), on="shared"),
        Fault(
            *("once-session", group, "C_Encrypt: CKR_SESSION_HANDLE_INVALID, once"),
            *(_behave("C_Encrypt rv=0xB3 count=1"), "shared"),
            told=False,
            fails=False,
        ),
        Fault(
            *("once-device", group, "C_Decrypt: CKR_DEVICE_ERROR, once"),
            *(_behave("C_Decrypt rv=0x30 count=1"), "shared"),
            told=False,
            fails=False,
        ),
        Fault(
            *("sessions-exhausted", group, "two sessions, and no more, and the host is killed"),
            _behave("sessions 2", kill=True),
            fails=None,
        ),
        Fault("logged-out", group, "the login is lost (C_Logout by the token)", _behave("C_EncryptInit logout")),
    )


def _slow() -> Sequence[Fault]:
    group = "The token is slow, or silent"
    slow = "C_Encrypt delay=0.05", "C_Decrypt delay=0.05"
    return (
        Fault("slow", group, "50 ms for each operation", _behave(*slow), told=False, fails=False),
        Fault("slow-too", group, "1.5 s for each operation", _behave("C_Encrypt delay=1.5", "C_Decrypt delay=1.5")),
        Fault(
            *("slower", group, "slower by 50 ms with each call"),
            _behave("C_Encrypt grow=0.05", "C_Decrypt grow=0.05"),
            seconds=4,
        ),
        Fault("hang-one", group, "one C_Decrypt never comes back", _behave("C_Decrypt hang count=1"), seconds=2),
        Fault("hang-login", group, "C_Login hangs, and the host is killed", _behave("C_Login hang", kill=True)),
        Fault("hang-all", group, "no call comes back", _behave("* hang"), seconds=2),
        Fault("files-locked", group, "SoftHSM's files are locked: it waits inside", _locked, on="softhsm", seconds=2),
        _short("stopped", group, "the host is stopped (SIGSTOP)", _hosts_get(signal.SIGSTOP)),
    )


def _ends() -> Sequence[Fault]:
    group = "A process ends"
    return (
        *(
            Fault(
                f"crash-{operation}",
                group,
                f"{function} crashes at each call (SIGSEGV)"
                + (", and the host is killed" if operation == "login" else ""),
                _behave(f"{function} crash", kill=function == "C_Login"),
                seconds=1.5,
                fails=None if operation in ("random", "list") else True,
            )
            for operation, function in OPERATIONS.items()
        ),
        Fault("crash-start", group, "the module crashes when it is loaded", _behave("C_Initialize crash", kill=True)),
        _short("killed", group, "the host is killed, once", _hosts_get(signal.SIGKILL), fails=None, settled=2.1),
        _short("killed-often", group, "the host is killed six times in 1.5 s", _killed_again_and_again),
        _short("kmsd-killed", group, "kmsd is killed, and started again", _daemon_killed, told=False),
        _short("kmsd-ended", group, "kmsd gets SIGTERM, and is started again", _daemon_ended, told=False),
        _short("reloads", group, "200 SIGHUP in 0.6 s", _storm, told=False, fails=False),
    )


def _garbage() -> Sequence[Fault]:
    group = "The token gives wrong results and no error"
    return (
        Fault("flip-encrypt", group, "C_Encrypt: a bit is wrong", _behave("C_Encrypt flip"), seconds=1.5),
        Fault("flip-decrypt", group, "C_Decrypt: a bit is wrong", _behave("C_Decrypt flip"), seconds=1.5, lies=True),
        Fault("zeros", group, "C_GenerateRandom: nothing but zeros", _behave("C_GenerateRandom zero"), fails=None),
        Fault("short-encrypt", group, "C_Encrypt: a byte too few", _behave("C_Encrypt short")),
        Fault("short-decrypt", group, "C_Decrypt: a byte too few", _behave("C_Decrypt short")),
    )


def _gone() -> Sequence[Fault]:
    group = "The token is away"
    return (
        Fault("directory-gone", group, "SoftHSM's directory is gone, and back", _away, on="softhsm", seconds=1.5),
        Fault("directory-empty", group, "SoftHSM's directory is empty, and full", _empty, on="softhsm", seconds=1.5),
        Fault("p11-kit", group, "the server of p11-kit is killed, and started", _away, on="p11kit", seconds=1.5),
        Fault("tpm-gone", group, "a TPM (swtpm) is killed, and started", _away, on="tpm", seconds=1.5),
        Fault("tpm-silent", group, "a TPM (swtpm) stops answering", _locked, on="tpm", seconds=2),
        Fault("pin-changed", group, "the PIN is changed, and the host is killed", _pin_changed, codes=_REFUSED),
        Fault("pin-locked", group, "the PIN is locked, and the host is killed", _pin_locked, codes=_REFUSED),
    )


def _machine() -> Sequence[Fault]:
    group = "The machine"
    full = _limit(resource.RLIMIT_FSIZE, lambda _: 0)
    few = _limit(resource.RLIMIT_NOFILE, _descriptors, lambda rig: _signal_hosts(rig, signal.SIGKILL))
    return (
        Fault("disk-full", group, "nothing can be written to any file (RLIMIT_FSIZE 0), the log among them", full,
              on="softhsm", told=False, fails=False, command=("prlimit", "--fsize=0:")),
        Fault("read-only", group, "read-only state directory, and the host is killed", _read_only, on="no-override",
              fails=None, command=NO_OVERRIDE),
        Fault("descriptors", group, "no descriptor is left, and the host is killed", few, start=False),
        Fault("clock", group, "the clock is set back by an hour", _clock, on="clock", told=False, fails=False),
    )  # fmt: skip


FAULTS: Final = (*_returns(), *_slow(), *_ends(), *_garbage(), *_gone(), *_machine())
