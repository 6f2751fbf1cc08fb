"""What stands between the callers of a Unix socket and a server: carries frames, holds them back, and is bounded."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kmsd.errors import Denied, Misconfigured
from kmsd.transport import caller as naming
from kmsd.transport import connection as module
from kmsd.transport import entrance as entering
from kmsd.transport import relay as relaying
from kmsd.transport.caller import Caller, word
from kmsd.transport.frames import HEADER, PREFACE
from kmsd.transport.relay import CONNECTIONS, Relay

START = len(PREFACE)


def said(words: bytes) -> bytes:
    """A frame with these bytes, on no stream."""
    return len(words).to_bytes(3, "big") + bytes(HEADER - 3) + words


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def running(directory: Path, handler: Handler = echo, connections: int = CONNECTIONS) -> AsyncIterator[Relay]:
    """A relay before a server with this handler; its callers find it at `directory / "s"`."""
    relay = Relay(connections=connections)
    behind = socket.socket(socket.AF_UNIX)

    def serve(path: str) -> None:
        behind.bind(path)
        behind.listen()

    relay.hide(directory, serve)
    server = await asyncio.start_unix_server(handler, sock=behind)
    relay.listen(str(directory / "s"))
    try:
        yield relay
    finally:
        server.close()
        await relay.close()


async def dial(directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(directory / "s"))


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def answered(directory: Path) -> bool:
    """Whether a new connection is served."""
    reader, writer = await dial(directory)
    try:
        writer.write(PREFACE)
        return await reader.read(START) == PREFACE
    except ConnectionError:
        return False
    finally:
        writer.close()


def open_handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


async def test_every_byte_arrives_in_both_directions(short_tmp: Path) -> None:
    sent = PREFACE + said(os.urandom(3_000_000))
    async with running(short_tmp):
        reader, writer = await dial(short_tmp)
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        await hang_up(writer)


async def test_the_server_learns_who_calls_by_the_name_of_the_connection(short_tmp: Path) -> None:
    seen: list[str] = []

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = f"unix-abstract:{writer.get_extra_info('peername')[1:].decode()}"
        seen.append(peer)
        caller = relay.caller(peer)
        assert isinstance(caller, Caller)
        writer.write(f"{caller.uid} {caller.pid} {caller.told('me')}".encode())
        await reader.read()
        writer.close()

    async with running(short_tmp, tell) as relay:
        for _ in range(2):
            reader, writer = await dial(short_tmp)
            writer.write(PREFACE)
            answer = (await reader.read(1000)).decode()
            assert answer.startswith(f"{os.geteuid()} {os.getpid()} me uid={os.geteuid()} user=")
            await hang_up(writer)
        assert len(set(seen)) == 2
        await until(lambda: not relay._callers)
        for peer in (*seen, "unix:", "unix-abstract:", "unix-abstract:kmsd-"):
            with pytest.raises(Denied, match="nobody knows who calls"):
                relay.caller(peer)


async def test_a_caller_that_reads_nothing_is_held_back_and_in_the_end_let_go(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.5)
    written = 0
    broken = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        try:
            while True:
                writer.write(bytes(100_000))
                await writer.drain()
                written += 100_000
        except ConnectionError:
            broken.set()
        finally:
            writer.close()

    async with running(short_tmp, pour):
        with socket.socket(socket.AF_UNIX) as idle:
            idle.setblocking(False)
            idle.connect(str(short_tmp / "s"))
            idle.send(PREFACE)
            async with asyncio.timeout(10):
                await broken.wait()
    assert 0 < written < 4_000_000


async def test_either_side_that_ends_ends_the_other(short_tmp: Path) -> None:
    ended = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readexactly(START + HEADER + 4))[START + HEADER :]
        writer.write(b"last words")
        if asked == b"wait":
            assert await reader.read() == b""
            ended.set()
        writer.close()

    async with running(short_tmp, say) as relay:
        reader, writer = await dial(short_tmp)
        writer.write(PREFACE + said(b"over"))
        assert await reader.read() == b"last words"
        await hang_up(writer)
        reader, writer = await dial(short_tmp)
        writer.write(PREFACE + said(b"wait"))
        assert await reader.readexactly(4) == b"last"
        writer.write_eof()
        assert await reader.read() == b" words"
        await ended.wait()
        await hang_up(writer)
        await until(lambda: not relay._connections)


class _Kernel:
    """Says that the user `uid` calls."""

    size = entering._UCRED.size
    uid = 0

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, self.uid, self.uid


async def test_who_has_the_most_connections_gives_up_what_was_silent_for_longest(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = _Kernel()
    monkeypatch.setattr(entering, "_UCRED", kernel)
    held: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def hold(name: str, uid: int, *, speaks: bool) -> None:
        kernel.uid, before = uid, len(relay._connections)
        reader, writer = held[name] = await dial(short_tmp)
        if speaks:
            writer.write(PREFACE + said(b""))
            await reader.readexactly(START + HEADER)
        else:
            await until(lambda: len(relay._connections) > before)
        await asyncio.sleep(0.02)

    async def gone(name: str) -> bool:
        reader, writer = held[name]
        try:
            writer.write(said(b"?"))
            async with asyncio.timeout(0.3):
                return await reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    async with running(short_tmp, connections=4) as relay:
        await hold("first", 1001, speaks=True)
        await hold("silent", 1001, speaks=False)
        await hold("third", 1001, speaks=True)
        await hold("other", 1002, speaks=True)
        await hold("fifth", 1001, speaks=True)
        assert await gone("first") or await gone("silent")
        assert not await gone("other"), "it has one"
        await hold("sixth", 1002, speaks=True)
        assert len(relay._connections) <= 4
        assert not await gone("other"), "the first user had more"
        assert not await gone("sixth")
    for _, writer in held.values():
        writer.close()


async def test_at_the_end_nobody_is_left(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_SECONDS", 0.1)

    async def serve_once() -> int:
        async with running(short_tmp):
            reader, writer = await dial(short_tmp)
            writer.write(PREFACE)
            assert await reader.read(START) == PREFACE
        assert await reader.read() == b""
        await hang_up(writer)
        with pytest.raises(ConnectionRefusedError):
            await dial(short_tmp)
        (short_tmp / "s").unlink()
        await asyncio.sleep(0.05)
        return await asyncio.to_thread(open_handles)

    open_after = [await serve_once() for _ in range(3)]
    assert open_after[1] == open_after[2]


async def test_it_listens_at_a_new_path_when_it_is_told_to(short_tmp: Path) -> None:
    """Whoever was connected stays so."""
    async with running(short_tmp) as relay:
        reader, writer = await dial(short_tmp)
        writer.write(PREFACE)
        assert await reader.read(START) == PREFACE
        (short_tmp / "s").unlink()
        relay.listen(str(short_tmp / "s"))
        assert await answered(short_tmp)
        writer.write(said(b"x"))
        assert await reader.readexactly(HEADER + 1) == said(b"x")
        await hang_up(writer)


async def test_it_goes_on_when_file_descriptors_were_short(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "_RETRY_SECONDS", 0.1)
    tried = 0

    class Short:
        """A socket that cannot accept at first."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real

        def fileno(self) -> int:
            return self._real.fileno()

        def close(self) -> None:
            self._real.close()

        def accept(self) -> tuple[socket.socket, object]:
            nonlocal tried
            tried += 1
            if tried < 3:
                raise OSError(24, "Too many open files")
            return self._real.accept()

    async with running(short_tmp) as relay:
        listening = relay._listening
        assert listening is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        short: Any = Short(listening)
        relay._listening = short
        loop.add_reader(short, relay._accept, short)
        assert await answered(short_tmp)
        # The fourth finds that nobody else has come.
        assert tried == 4


async def test_where_no_folder_can_be_made_is_said(short_tmp: Path) -> None:
    with pytest.raises(Misconfigured, match="kmsd cannot make a socket of its own in"):
        Relay().hide(short_tmp / "missing", lambda path: None)


async def test_the_name_of_a_user_that_does_not_come_is_not_waited_for(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    told: list[str] = []

    def slow(uid: int) -> str:
        nonlocal asked
        asked += 1
        asyncio.run(asyncio.sleep(0.3))
        return "late"

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = relay.caller(f"unix-abstract:{writer.get_extra_info('peername')[1:].decode()}")
        assert isinstance(caller, Caller)
        told.append(caller.user)
        writer.write(PREFACE)
        await reader.read()
        writer.close()

    monkeypatch.setattr(naming, "_user", slow)
    monkeypatch.setattr(naming, "_NAME_SECONDS", 0.05)
    async with running(short_tmp, tell) as relay:
        assert await answered(short_tmp)
        assert await answered(short_tmp)
    assert told == ["?", "?"]
    assert asked == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kmsctl", "kmsctl"),
        ("kmsctl(anna)", "kmsctl(anna)"),
        ("kmsctl uid=0 user=root", "kmsctl"),
        ("a=b", "a?b"),
        ("a\u00a0uid\uff1d0", "a?uid?0"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_what_a_caller_says_is_one_word(text: str, shown: str) -> None:
    assert word(text) == shown
