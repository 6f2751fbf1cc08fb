"""What is opened may be a pipe, a device, a directory or far too large: none of it hangs or fills the reader."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kmsd import plainfile
from kmsd.config import toml
from kmsd.config.pins import read_pin
from kmsd.config.settings import Token
from kmsd.config.sources import ConfigError, load
from kmsd.hsm.host import module


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FIFO without anybody at its other end; whoever reads it waits 0.2 s."""
    monkeypatch.setattr(plainfile, "PATIENCE", 0.2)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
def test_only_regular_files_are_opened(tmp_path: Path, fifo: Path, flags: int) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("x")
    os.close(plainfile.open_regular(tmp_path / "file", flags))
    began = time.monotonic()
    for path in (fifo, Path("/dev/zero"), tmp_path, tmp_path / "link"):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory|symbolic links"):
            plainfile.open_regular(path, flags)
    assert time.monotonic() - began < 1


def test_a_pipe_is_waited_for_and_no_longer(fifo: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"nobody wrote all of it to the pipe within 0\.2 s"):
        plainfile.read_input(fifo, 100)
    assert 0.1 < time.monotonic() - began < 2


@pytest.mark.parametrize("line", [True, False])
def test_what_comes_in_pieces_through_a_pipe_is_read_to_its_end(
    fifo: Path, line: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plainfile, "PATIENCE", 10.0)

    def write() -> None:
        with fifo.open("wb", buffering=0) as end:
            for piece in (b"12", b"34", b"\nmore"):
                end.write(piece)
                time.sleep(0.02)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    data, _ = plainfile.read_input(fifo, 100, line=line)
    assert data == (b"1234\n" if line else b"1234\nmore")


def test_more_than_is_wanted_is_never_read(tmp_path: Path) -> None:
    assert plainfile.read_input(Path("/dev/zero"), 1000)[0] == bytes(1000)
    assert plainfile.read_input(Path("/dev/null"), 1000)[0] == b""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    assert len(plainfile.read_input(huge, 1000)[0]) == 1000
    assert len(plainfile.read_input(huge, 1000, line=True)[0]) == 1000


def test_a_configuration_may_come_through_a_pipe_that_somebody_writes_to(fifo: Path) -> None:
    with pytest.raises(ConfigError, match="nobody wrote all of it to the pipe"):
        load({}, config_file=fifo, environ={})
    threading.Thread(target=lambda: fifo.write_text('[keys]\nlabel = "x"\n'), daemon=True).start()
    assert load({}, config_file=fifo, environ={}).settings.keys.label == "x"
    assert toml.read(Path("/dev/null")) is not None


def test_a_pin_file_that_is_a_pipe_works_when_somebody_writes_to_it(fifo: Path) -> None:
    token = Token(pin_file=fifo)
    with pytest.raises(ConfigError) as caught:
        read_pin(token, {})
    assert caught.value.message == f"the PIN file {fifo}: nobody wrote all of it to the pipe within 0.2 s"
    threading.Thread(target=lambda: fifo.write_text("1234\n"), daemon=True).start()
    assert read_pin(token, {}) == "1234"


def test_a_module_that_is_a_pipe_is_refused(fifo: Path) -> None:
    with pytest.raises(Exception, match="cannot be loaded: it is a pipe"):
        module.load(str(fifo))
