"""kmsd, kmsctl and what changes objects on tokens, in processes that have everything imported when they begin.

To import either costs several times what it does in most tests, and one run of the tests starts them more than a
thousand times. So a server imports the program, once for each process of pytest, and forks for each start. A fork is a
process like any other, with its own command line, environment, descriptors, working directory and signals, and it ends
like any other; only /proc shows the server's command line. `_ForkedPopen` says which starts are executed all the same.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr, Final

_BIN: Final = Path(sys.executable).parent
_COMMANDS: Final = {
    (str(_BIN / "kmsd"), "serve"): "kmsd",
    (str(_BIN / "kmsd"), "proxy"): "site",
    (str(_BIN / "kmsctl"),): "kmsctl",
    (sys.executable, "-m", "kmsctl"): "kmsctl",
    (sys.executable, "-m", "tests.objects"): "objects",
}
"""Beginnings of the command lines that a fork can run -> program."""
_IMPORTED: Final = {
    "kmsd": ("kmsd.cli", "kmsd.daemon.assembly", "kmsd.daemon.process"),
    # What a fork has imported costs it a little all the same, and most kmsd have no configuration.
    "site": (
        *("kmsd.cli", "kmsd.daemon.assembly", "kmsd.daemon.process", "kmsd.daemon.proxy", "kmsd.daemon.renewal"),
        *("kmsd.daemon.ca", "kmsd.daemon.enrolment", "kmsd.est.server", "kmsd.apis.admin_ca", "kmsd.apis.admin_enrol"),
        *("kmsd.apis.admin_proxy", "kmsd.apis.peer", "kmsd.transport.tls_entrance", "pydantic.type_adapter"),
        *("alembic.command", "alembic.script.revision", "alembic.runtime.environment", "sqlalchemy.dialects.sqlite"),
        *("psycopg", "sqlalchemy.dialects.postgresql.psycopg", "typer._click.decorators"),
    ),
    "kmsctl": (
        *("kmsctl.app", "kmsctl.completion", "kmsctl.commands.status", "kmsctl.commands.audit", "kmsctl.commands.etcd"),
        *("kmsctl.commands.bench", "kmsctl.commands.ca", "kmsctl.commands.doctor", "kmsctl.commands.enrol"),
        *("kmsctl.commands.enrol_tokens", "kmsctl.commands.keys", "kmsctl.commands.rotate", "kmsd.client.admin"),
        *("kmsd.client.ca", "kmsd.client.decode.stats", "kmsd.client.decode.tokens", "kmsd.client.dial"),
        *("kmsd.client.enrolment", "kmsd.client.est", "kmsd.client.kms", "kmsd.client.rotation", "kmsd.etcd.client"),
        *("grpc._channel", "grpc.experimental", "pydantic.type_adapter", "tomllib", "typer._click.decorators"),
    ),
    "objects": ("tests.objects", "pkcs11._pkcs11"),
}
"""Program -> modules that its server has imported; the first has its `main`."""
_READ_AT_START: Final = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "GRPC_", "MALLOC_")
"""Beginnings of the names of variables that take effect before a fork could set them."""
_NOTHING_SPECIAL: Final = (True, None, None, None, -1, False, -1)
"""What subprocess.Popen is told, from restore_signals on, if nothing is asked for."""
_STATUS: Final = struct.Struct("i")
_MOST_BYTES: Final = 1 << 17


class _ForkedPopen(subprocess.Popen[AnyStr]):
    """subprocess.Popen, which has a server fork where it can.

    Executed are other programs than those of `_COMMANDS`, and these as words of another's command line; what is to
    have a terminal, a variable that Python or a library reads as it is loaded, or descriptors, a user or a session of
    its own.
    """

    _report = -1
    """Where a fork's server tells how it ended; -1 for a process that was executed."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: bool,
        *rest: Any,
    ) -> None:
        # What subprocess.Popen calls when it has made the pipes.
        pipes, special = rest[:6], rest[6:]
        ends = [wanted if wanted >= 0 else usual for usual, wanted in enumerate((pipes[0], pipes[3], pipes[5]))]
        server = None if executable or preexec_fn or pass_fds or shell or special != _NOTHING_SPECIAL else _server(args)
        if server is None or not server.may_start(env, ends):
            given = (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            super()._execute_child(*given, *rest)  # type: ignore[misc]
            return
        try:
            self.pid, self._report = server.start(args, env, cwd, ends)
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._report < 0:
            answer: tuple[int, int] = super()._try_wait(flags)  # type: ignore[misc]
            return answer
        if flags & os.WNOHANG and not select.select([self._report], [], [], 0)[0]:
            return 0, 0
        told = os.read(self._report, _STATUS.size)
        os.close(self._report)
        assert told, "the server of the process has ended, and nobody knows how the process did"
        return self.pid, _STATUS.unpack(told)[0]

    def wait(self, timeout: float | None = None) -> int:
        # subprocess.Popen looks again and again, with pauses.
        if self._report >= 0 and self.returncode is None and not select.select([self._report], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return super().wait(timeout)

    def _internal_poll(self, *args: Any, **more: Any) -> int | None:
        if self._report < 0:
            code: int | None = super()._internal_poll(*args, **more)  # type: ignore[misc]
            return code
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def _run(args: Any, **more: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command as subprocess.run does, with `_ForkedPopen`."""
    data, timeout, check = more.pop("input", None), more.pop("timeout", None), more.pop("check", False)
    if data is not None:
        more["stdin"] = subprocess.PIPE
    if more.pop("capture_output", False):
        more["stdout"] = more["stderr"] = subprocess.PIPE
    with _ForkedPopen[Any](args, **more) as process:
        try:
            out, err = process.communicate(data, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


if TYPE_CHECKING:
    Popen = subprocess.Popen
    run = subprocess.run
else:
    Popen = _ForkedPopen
    run = _run


class _Server:
    """The server of one program, as it is seen from the process of pytest."""

    def __init__(self, program: str) -> None:
        self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = _read_at_start(os.environ)
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", program, str(its.fileno())],
                pass_fds=(its.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[1],
            )
        atexit.register(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._control.close()
        process.wait()

    def may_start(self, env: Mapping[str, str] | None, ends: list[int]) -> bool:
        """Whether a fork would be what these variables and descriptors make of a program."""
        return _read_at_start(os.environ if env is None else env) == self._environment and not any(map(os.isatty, ends))

    def start(self, args: Any, env: Any, cwd: Any, ends: list[int]) -> tuple[int, int]:
        """Have it fork. Returns the pid, and the descriptor that how the process ended will be read from."""
        ours, its = os.pipe()
        told = {
            "argv": [os.fspath(each) for each in args],
            "environment": dict(os.environ if env is None else env),
            "cwd": os.fspath(cwd or Path.cwd()),
            "umask": _umask(),
        }
        try:
            socket.send_fds(self._control, [json.dumps(told).encode()], [*ends, its])
        finally:
            os.close(its)
        return _STATUS.unpack(os.read(ours, _STATUS.size))[0], ours


_server_of = functools.cache(_Server)


def _server(args: Any) -> _Server | None:
    if not isinstance(args, list | tuple):
        return None
    for beginning, program in _COMMANDS.items():
        if tuple(args[: len(beginning)]) == beginning:
            configured = program == "kmsd" and any(str(each).startswith("--config=") for each in args)
            return _server_of("site" if configured else program)
    return None


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)


# In the server.


def _serve(control: socket.socket) -> list[str]:
    """Fork for each start until nobody can ask any more. Returns, in each fork, the words of its command line."""
    running: dict[int, tuple[int, int]] = {}
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    while True:
        for ready, _ in waiting.poll():
            if ready in running:
                waiting.unregister(ready)
                pid, report = running.pop(ready)
                os.close(ready)
                _tell(report, os.waitpid(pid, 0)[1])
                os.close(report)
                continue
            told, given, _, _ = socket.recv_fds(control, _MOST_BYTES, 4)
            if not told:
                # A run of pytest that was broken off leaves nothing behind.
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                for each in (control.detach(), *running, *(report for _, report in running.values())):
                    os.close(each)
                return _become(json.loads(told), given)
            handle = os.pidfd_open(pid)
            running[handle] = pid, given[3]
            waiting.register(handle, select.POLLIN)
            for each in given[:3]:
                os.close(each)
            _tell(given[3], pid)


def _tell(report: int, number: int) -> None:
    # Whoever asked may have gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(report, _STATUS.pack(number))


def _become(told: dict[str, Any], given: list[int]) -> list[str]:
    for number, each in enumerate(given[:3]):
        os.dup2(each, number)
    for each in given:
        os.close(each)
    os.chdir(told["cwd"])
    os.umask(told["umask"])
    os.environ.clear()
    os.environ.update(told["environment"])
    words: list[str] = told["argv"]
    return words


def _main(program: str, control: str) -> None:
    main, *_ = [importlib.import_module(name) for name in _IMPORTED[program]]
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack threads that an import has started"  # noqa: PTH208
    gc.collect()
    gc.freeze()
    words = _serve(socket.socket(fileno=int(control)))
    beginning = next(each for each in _COMMANDS if tuple(words[: len(each)]) == each)
    sys.argv[:] = words if len(beginning) < 3 else [str(_BIN / program), *words[3:]]
    sys.exit(main.main())


if __name__ == "__main__":
    _main(*sys.argv[1:])
