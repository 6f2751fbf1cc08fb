"""The credentials of a kubeconfig, as they are now: files are read anew, and plugins are run. Nothing of them is told.

Knows no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kmsctl import files
from kmsctl.kubeapi.kubeconfig import ExecPlugin, KubeAccess
from kmsd.client import ClientError, Denied, InvalidRequest

PLUGIN_SECONDS: Final = 60.0
OUTPUT_MAX: Final = 1 << 20
"""Bytes that a plugin may say."""
TOKEN_MAX: Final = 64 << 10
FILE_LIFE: Final = 60.0
"""Seconds after which a tokenFile is read anew: it is renewed in place."""
EARLY: Final = 30.0
"""Seconds before its end from which a plugin's credential is not used any more."""


@dataclass(frozen=True)
class Credential:
    """A credential. ends: monotonic seconds; None: it does not say."""

    token: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    ends: float | None = None


class Credentials:
    """The source of a context's credentials. `get` returns what holds now, `refused` has the next one made anew."""

    def __init__(self, access: KubeAccess) -> None:
        self._access = access
        self._known: Credential | None = None

    async def get(self) -> Credential:
        """Return the credential to show. Raises ClientError, UsageError."""
        known = self._known
        if known is None or (known.ends is not None and time.monotonic() >= known.ends):
            known = self._known = await self._make()
        return known

    def refused(self) -> bool:
        """Forget a credential that was refused. Return whether another one can be had."""
        self._known = None
        return bool(self._access.token_file or self._access.plugin)

    async def _make(self) -> Credential:
        access = self._access
        certificate, key = access.certificate, access.key
        if access.token_file:
            raw = files.read(access.token_file, "the token", most=TOKEN_MAX, too_long="is it a token?")
            return Credential(_token(raw.decode(errors="replace").strip()), certificate, key, _in(FILE_LIFE))
        if access.token or certificate or access.plugin is None:
            return Credential(_token(access.token), certificate, key)
        return await _run(access.plugin)


def _in(seconds: float) -> float:
    return time.monotonic() + seconds


def _token(text: str) -> str:
    """Check that a token can stand in a header."""
    if len(text) > TOKEN_MAX or not text.isprintable() or not text.isascii() or " " in text:
        raise InvalidRequest("the token of the kubeconfig is none: it must be printable ASCII on one line")
    return text


async def _run(plugin: ExecPlugin) -> Credential:
    """Run a plugin and return what it gives. Raises ClientError."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.cluster is not None:
        spec["cluster"] = plugin.cluster
    info = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
    environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    return _credential(plugin, await asyncio.to_thread(_output, plugin, environment))


def _output(plugin: ExecPlugin, environment: Mapping[str, str]) -> bytes:
    """Return what a plugin says, once it has ended well. Raises ClientError."""
    try:
        process = subprocess.Popen(
            [plugin.command, *plugin.arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it may be anything, on a screen that shows something else
            start_new_session=True,  # what it has started ends with it
        )
    except OSError as error:
        why = f"the credential plugin {plugin.command} does not start: {error.strerror}"
        raise Denied(why, plugin.hint or "install it, or name a context without one: --context") from error
    with process:
        try:
            output = _read(process, time.monotonic() + PLUGIN_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if output is None:
            raise _failed(plugin, f"has not ended within {PLUGIN_SECONDS:g} s")
        if len(output) > OUTPUT_MAX:
            raise _failed(plugin, f"says more than {OUTPUT_MAX >> 20} MiB")
        if process.wait():
            raise _failed(plugin, f"ended with {process.returncode}")
    return output


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Read what a process says until it has ended, or has said more than it may; None if it takes too long."""
    output = b""
    if process.stdout is None:
        return output
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= OUTPUT_MAX:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for key, _ in selector.select(left):
                part = os.read(key.fd, 1 << 16)
                if not part:
                    # Its end follows at once, if it has closed its output because it ends.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, deadline - time.monotonic()))
                        return output
                    return None
                output += part
    return output


def _credential(plugin: ExecPlugin, output: bytes) -> Credential:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    match answer:
        case {"kind": "ExecCredential", "status": dict(status)}:
            given = {name: status.get(name) or "" for name in ("token", "clientCertificateData", "clientKeyData")}
            ends = status.get("expirationTimestamp")
        case _:
            raise _failed(plugin, "answers no ExecCredential")
    if not all(isinstance(each, str) for each in given.values()) or not any(given.values()):
        raise _failed(plugin, "gives neither a token nor a certificate")
    certificate, key = given["clientCertificateData"], given["clientKeyData"]
    return Credential(_token(given["token"]), certificate.encode(), key.encode(), _ends(plugin, ends))


def _ends(plugin: ExecPlugin, moment: object) -> float | None:
    if moment is None:
        return None
    try:
        left = datetime.fromisoformat(str(moment)) - datetime.now(UTC)
    except (ValueError, TypeError):
        raise _failed(plugin, "says no time that can be read in expirationTimestamp") from None
    # At least one request is made with it: a clock that is wrong here must not have the plugin run for each.
    return _in(max(1.0, left.total_seconds() - EARLY))


def _failed(plugin: ExecPlugin, why: str) -> ClientError:
    return Denied(f"the credential plugin {plugin.command} {why}", "run it by hand to see what it says")


@contextlib.contextmanager
def as_files(*contents: bytes) -> Iterator[list[str]]:
    """Yield paths under which libraries that want files find these bytes, which stay in memory."""
    descriptors = []
    try:
        for content in contents:
            descriptors.append(descriptor := os.memfd_create("credential", os.MFD_CLOEXEC))
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
        yield [str(Path("/proc/self/fd") / str(each)) for each in descriptors]
    finally:
        for each in descriptors:
            os.close(each)
