"""The life of the process: sockets claimed, parts started, signals obeyed, calls drained, everything let go.

It ends when it is told to, and by itself when only a restart can help (`liveness`)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, NoReturn, Protocol

import uvloop

from kmsd import __version__, state
from kmsd.audit.trail import Audit
from kmsd.config.sources import ConfigError, Loaded
from kmsd.daemon import event_sinks, memory, own_stderr
from kmsd.daemon.configured import Configured
from kmsd.errors import KmsdError, Misconfigured, on_stderr
from kmsd.observe import logs
from kmsd.observe.sdnotify import notify
from kmsd.transport.listener import Listener

log = logs.get_logger("kmsd")

Spawn = Callable[[Coroutine[object, object, None]], None]
"""A function that lets something run in the background until kmsd ends."""
_DRAIN_SECONDS: Final = 5.0
_DESCRIPTORS: Final = 65536
_PR_SET_DUMPABLE: Final = 4


def run(build: Build, loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, and end the process: 0, or 1 if it ended by itself, 2 for what is misconfigured.

    build: makes the parts. reload: reads the same configuration again, for SIGHUP. on_ready: called once, when both
    sockets answer.
    """
    logs.configure(loaded.settings.log.format, loaded.settings.log.level)
    _no_core_dumps()
    memory.one_heap()
    memory.small_pages()
    _many_descriptors()
    uvloop.run(_run_to_the_end(Daemon(build, loaded, reload, on_ready)))
    raise AssertionError("the process has ended")


async def _run_to_the_end(daemon: Daemon) -> NoReturn:
    """Run the daemon, and end the process with everything as it is.

    A thread that hangs inside the module would be waited for; and grpcio, when it is taken apart, answers CANCELLED to
    whoever calls at that moment, instead of the UNAVAILABLE that a connection which breaks stands for.
    """
    with contextlib.suppress(OSError):
        await own_stderr.take(event_sinks.library_printed)
    try:
        await daemon.run()
        code = 1 if daemon.reason else 0
    except KmsdError as error:
        sys.stderr.write(on_stderr(error.message, error.hint))
        code = 2 if isinstance(error, Misconfigured) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _many_descriptors() -> None:
    """Raise the soft limit of open files towards the hard one: without one to spare no client is heard any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _no_core_dumps() -> None:
    """Forbid core dumps, which would hold plaintexts and the PIN, and keep others of the same user from attaching
    (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class Parts(Protocol):
    """The things that a running kmsd is made of. stopping: set when it ends, so that what ends with it makes no
    noise."""

    stopping: bool
    audit: Audit

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The Unix sockets."""

    async def start(self) -> None:
        """Begin with all else: the sockets answer. Raises KmsdError."""

    def work(self) -> Iterable[Coroutine[object, object, None]]:
        """Return what goes on beside the calls, for ever."""

    async def reload(self, configured: Configured) -> None:
        """Go by what a reload has changed."""

    async def drain(self, grace: float) -> None:
        """End what else serves callers; what has begun has so many seconds."""

    async def end(self) -> None:
        """Let go of everything: nobody is served any more."""


Build = Callable[[Configured, Spawn, Callable[[str], None]], Parts]
"""A function that makes the parts. Its last argument is told why only a restart can help."""


class Daemon:
    """A running kmsd. reason: why it ends by itself; empty if it was told to."""

    def __init__(
        self, build: Build, loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None
    ) -> None:
        self.reason = ""
        self._build = build
        self._configured = Configured(loaded)
        self._read_again = reload
        self._on_ready = on_ready
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._reload_due = False
        self._reloading = False

    async def run(self) -> None:
        """Run until told to end. Raises KmsdError if a socket cannot be had, or the audit cannot be written."""
        parts = self._build(self._configured, self._spawn, self._give_up)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon, parts)
        try:
            await self._start(parts)
            await self._stopped.wait()
        finally:
            if self.reason:
                event_sinks.gives_up(parts.audit, self.reason)
            await self._stop(parts)

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._stopped.set()

    async def _start(self, parts: Parts) -> None:
        for listener in parts.listeners:
            listener.place.claim()
        await parts.audit.start()
        for listener in parts.listeners:
            await listener.start()
        await parts.start()
        self._tell_up(parts)
        for work in parts.work():
            self._spawn(work)
        memory.settle()
        notify(READY="1", STATUS="starting")
        if self._on_ready is not None:
            self._on_ready()

    def _tell_up(self, parts: Parts) -> None:
        loaded, settings = self._configured.loaded, self._configured.settings
        for warning in loaded.warnings:
            log.warning(warning)
        if (doubt := state.doubt(settings.state.dir)) is not None:
            log.warning(doubt.message, hint=doubt.hint)
        log.info(
            "kmsd is up",
            version=__version__,
            config=str(loaded.file or "none"),
            kms=str(settings.kms.socket),
            admin=str(settings.admin.socket),
        )
        parts.audit.event("kmsd up", detail=f"version {__version__}")

    def _reload_soon(self, parts: Parts) -> None:
        """Obey SIGHUP. Signals that come while one is being obeyed are obeyed together, after it."""
        self._reload_due = True
        if not self._reloading:
            self._reloading = True
            self._spawn(self._reload(parts))

    async def _reload(self, parts: Parts) -> None:
        try:
            while self._reload_due:
                self._reload_due = False
                notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
                await self._read_everything_again(parts)
                notify(READY="1")
        finally:
            self._reloading = False

    async def _read_everything_again(self, parts: Parts) -> None:
        """Take what a reload may change."""
        try:
            # The file may be a pipe, or on a disk that hangs.
            fresh = await asyncio.to_thread(self._read_again)
        except ConfigError as error:
            log.error("reload refused, the old configuration stays", reason=error.message, hint=error.hint)
            return
        stay = self._configured.take(fresh)
        await parts.reload(self._configured)
        log.info("configuration read again", needs_restart=stay)

    async def _stop(self, parts: Parts) -> None:
        parts.stopping = True
        log.info("kmsd is stopping")
        notify(STOPPING="1")
        parts.audit.event("kmsd stopping")
        await asyncio.gather(*(each.stop(_DRAIN_SECONDS) for each in parts.listeners), parts.drain(_DRAIN_SECONDS))
        for listener in parts.listeners:
            listener.place.release()
        await parts.audit.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await parts.end()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", type=type(error).__name__, task=task.get_name())
