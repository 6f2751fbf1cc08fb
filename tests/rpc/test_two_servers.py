"""Two servers behind one door: what the first request of a connection is addressed to decides who answers it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hpack import Encoder

from kmsd.transport import connection, frames
from kmsd.transport.relay import Relay

ACK = struct.pack(">HBBBI", 0, 0, frames.SETTINGS, frames.ACK, 0)
PING = struct.pack(">HBBBI8s", 0, 8, 6, 0, 0, bytes(8))
FIRST = frames.settings(1000)


def _request(authority: str) -> bytes:
    payload = Encoder().encode([(":method", "POST"), (":path", "/x"), (":authority", authority)])
    return struct.pack(">HBBBI", 0, len(payload), frames.HEADERS, frames.END_HEADERS, 1) + payload


@asynccontextmanager
async def _running(directory: Path) -> AsyncIterator[dict[str, list[bytes]]]:
    """Yields what each of two servers was sent, by its name: "hosts" takes "localhost" alone."""
    got: dict[str, list[bytes]] = {"hosts": [], "all": []}
    relay = Relay()
    servers = []
    for name in got:
        behind = socket.socket(socket.AF_UNIX)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
            while data := await reader.read(1 << 16):
                got[name].append(data)
                writer.write(data)
            writer.close()

        def bind(path: str, behind: socket.socket = behind) -> None:
            behind.bind(path)
            behind.listen()

        relay.hide(directory, bind, lambda authority, name=name: name == "all" or authority == "localhost")  # type: ignore[misc]
        servers.append(await asyncio.start_unix_server(serve, sock=behind))
    relay.listen(str(directory / "s"))
    try:
        yield got
    finally:
        for server in servers:
            server.close()
        await relay.close()


@pytest.mark.parametrize(
    ("sent", "server"),
    [
        (frames.settings(7) + _request("localhost"), "hosts"),
        (frames.settings(7) + _request("/run/kms.sock"), "all"),
        (frames.settings(7) + PING, "all"),
        (_request(""), "all"),
    ],
)
async def test_the_first_request_chooses_the_server_and_arrives_there_whole(
    short_tmp: Path, sent: bytes, server: str
) -> None:
    async with _running(short_tmp) as got:
        reader, writer = await asyncio.open_unix_connection(str(short_tmp / "s"))
        writer.write(frames.PREFACE)
        # A client that asks for nothing before it has heard of the server.
        assert await reader.readexactly(len(FIRST)) == FIRST
        writer.write(sent)
        echoed = await reader.readexactly(len(frames.PREFACE + sent))
        assert echoed == frames.PREFACE + sent
        writer.close()
        await writer.wait_closed()
        assert b"".join(got[server]) == echoed
        assert [name for name in got if got[name]] == [server]


@pytest.mark.parametrize("before", [True, False])
async def test_the_server_hears_nothing_of_settings_that_it_did_not_send(short_tmp: Path, before: bool) -> None:
    request = _request("localhost")
    async with _running(short_tmp) as got:
        reader, writer = await asyncio.open_unix_connection(str(short_tmp / "s"))
        writer.write(frames.PREFACE + (ACK + request if before else request + ACK))
        await reader.readexactly(len(FIRST + frames.PREFACE + request))
        writer.write(ACK)  # of the settings that the server itself sends
        await reader.readexactly(len(ACK))
        writer.close()
        await writer.wait_closed()
        assert b"".join(got["hosts"]) == frames.PREFACE + request + ACK


async def test_who_never_asks_for_anything_is_let_go_in_the_end(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.3)
    async with _running(short_tmp) as got:
        reader, writer = await asyncio.open_unix_connection(str(short_tmp / "s"))
        writer.write(frames.PREFACE + frames.settings(7))
        async with asyncio.timeout(5):
            told = await reader.read(-1)
        assert told.startswith(FIRST)
        writer.close()
        assert not any(got.values())
