"""Work that blocks, in threads that nobody waits for at the end: leaving never waits for a kmsd that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], name: str) -> T:
    """What `work` returns or raises. If this is cancelled, the thread goes on, and its result is dropped."""
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

    threading.Thread(target=run, name=f"kmstui {name}", daemon=True).start()
    return await future


def call_in(loop: asyncio.AbstractEventLoop, work: Callable[..., object], *arguments: object) -> None:
    """From a thread: call it on the loop, unless that has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work, *arguments)
