"""Work that blocks, in threads that nobody waits for at the end: leaving never waits for a kmsd that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

Work = Callable[[], None]

_idle: list[SimpleQueue[Work]] = []
"""Threads without work. To start one anew for each call would hold up the loop until it runs, which takes long on a
busy machine."""


async def in_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns or raises. If this is cancelled, the thread goes on, and its result is dropped."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again where this is awaited
            call_in(loop, settle, future.set_exception, error)
        else:
            call_in(loop, settle, future.set_result, result)

    _thread().put(run)
    return await future


def _thread() -> SimpleQueue[Work]:
    """Return what a thread takes its work from that has none now."""
    with contextlib.suppress(IndexError):
        return _idle.pop()
    given: SimpleQueue[Work] = SimpleQueue()

    def live() -> None:
        while True:
            given.get()()
            _idle.append(given)

    threading.Thread(target=live, name="kmstui", daemon=True).start()
    return given


def call_in(loop: asyncio.AbstractEventLoop, work: Callable[..., object], *arguments: object) -> None:
    """Call a function on the loop from a thread, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work, *arguments)
