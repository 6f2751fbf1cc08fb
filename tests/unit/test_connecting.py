"""Sockets that are handed to the event loop are closed once, however early their connections end."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from typing import cast

import pytest
import uvloop

from kmsd.connecting import carry


class _EndsAtOnce(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_descriptor_that_is_somebody_elses_by_then_stays_open(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def connect() -> list[int]:
        ours, theirs = socket.socketpair()
        number = ours.fileno()
        await carry(_EndsAtOnce, ours)
        await asyncio.sleep(0.05)
        # Whoever opens something next gets the number that has become free.
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]
        assert number in opened
        del ours
        gc.collect()
        theirs.close()
        return opened

    loop = make_loop()
    try:
        opened = loop.run_until_complete(connect())
    finally:
        loop.close()
    for each in opened:
        os.fstat(each)
        os.close(each)
