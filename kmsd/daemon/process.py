"""The life of the process: sockets claimed, parts started, signals obeyed, calls drained, everything let go."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Final

import uvloop

from kmsd import __version__, state
from kmsd.config import ConfigError, Loaded
from kmsd.daemon import memory
from kmsd.daemon.assembly import Parts
from kmsd.daemon.configured import Configured
from kmsd.errors import KmsdError, Misconfigured
from kmsd.hsm.connection import Hsm
from kmsd.observe import logs
from kmsd.observe.sdnotify import notify

log = logs.get_logger("kmsd")

_DRAIN_SECONDS: Final = 5.0
_PR_SET_DUMPABLE: Final = 4


def run(loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    reload: reads the same configuration again, for SIGHUP. on_ready: called once, when both sockets answer.
    """
    logs.configure(loaded.settings.log.format, loaded.settings.log.level)
    _no_core_dumps()
    memory.one_heap()
    daemon = Daemon(loaded, reload, on_ready)
    try:
        uvloop.run(daemon.run())
    except KmsdError as error:
        sys.stderr.write(f"kmsd: error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return 2 if isinstance(error, Misconfigured) else 1
    if not daemon.clean:
        # A thread hangs inside the module; Python would wait for it for ever.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _no_core_dumps() -> None:
    """A core dump would hold plaintexts and the PIN; also keeps others of the same user from attaching (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class Daemon:
    """One running kmsd. clean: whether it has let go of every token."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None) -> None:
        self.clean = True
        self._configured = Configured(loaded)
        self._read_again = reload
        self._on_ready = on_ready
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises KmsdError if a socket cannot be had, or the audit cannot be written."""
        parts = Parts(self._configured, self._spawn)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, parts)
        try:
            await self._start(parts)
            await stop.wait()
        finally:
            await self._stop(parts)

    async def _start(self, parts: Parts) -> None:
        for listener in parts.listeners:
            listener.place.claim()
        await parts.audit.start()
        for listener in parts.listeners:
            await listener.start()
        self._tell_up(parts)
        # The sockets answer before the token does: kube-apiserver must find them whatever the token is up to.
        self._spawn(parts.health.run())
        self._spawn(parts.upkeep.run())
        self._spawn(parts.uses.keep())
        notify(READY="1", STATUS="starting")
        if self._on_ready is not None:
            self._on_ready()

    def _tell_up(self, parts: Parts) -> None:
        loaded, settings = self._configured.loaded, self._configured.settings
        for warning in loaded.warnings:
            log.warning(warning)
        if (doubt := state.doubt(settings.state.dir)) is not None:
            log.warning(doubt.message, hint=doubt.hint)
        if settings.keys.algorithm == "rsa-oaep":
            log.warning(
                "RSA keys serve: whoever knows the public key can write what opens as if kube-apiserver had written it",
                hint="prefer a token with AES; docs/tokens.md says more",
            )
        log.info(
            "kmsd is up",
            version=__version__,
            config=str(loaded.file or "none"),
            kms=str(settings.kms.socket),
            admin=str(settings.admin.socket),
        )
        parts.audit.event("kmsd up", detail=f"version {__version__}")

    def _reload(self, parts: Parts) -> None:
        """SIGHUP: log settings and the PINs change now; a token that refused its PIN is tried again."""
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            fresh = self._read_again()
        except ConfigError as error:
            log.error("reload refused, the old configuration stays", reason=error.message, hint=error.hint)
        else:
            stay = self._configured.take(fresh)
            log.info("configuration read again", needs_restart=stay)
            for name in parts.tokens:
                self._configured.read_pin_again(name)
            for hsm in parts.tokens.values():
                if hsm.connected is None:
                    self._spawn(_reconnect(hsm))
        notify(READY="1")

    async def _stop(self, parts: Parts) -> None:
        parts.stopping = True
        log.info("kmsd is stopping")
        notify(STOPPING="1")
        parts.audit.event("kmsd stopping")
        await asyncio.gather(*(listener.stop(_DRAIN_SECONDS) for listener in parts.listeners))
        for listener in parts.listeners:
            listener.place.release()
        await parts.audit.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts.uses.keep_all()
        closed = await asyncio.gather(*(hsm.close() for hsm in parts.tokens.values()))
        self.clean = all(closed)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", type=type(error).__name__, task=task.get_name())


async def _reconnect(hsm: Hsm) -> None:
    await hsm.reconnect("reload")
