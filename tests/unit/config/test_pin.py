"""The PIN is found where the configuration says, warned about where others can read it, and never shown."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kmsd.config.pins import read_pin
from kmsd.config.settings import Token
from kmsd.config.sources import ConfigError, load
from tests.unit.config.written import PIN, write


def test_a_pin_as_a_number_is_refused_without_repeating_it(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", "[token]\npin = 918273\n")
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ={})
    expected = f"{path}:2: token.pin: expected the PIN as a string in quotes, found a number without quotes"
    assert caught.value.message == expected
    assert caught.value.hint.startswith('put the PIN in quotes (pin = "...")')


@pytest.mark.parametrize(
    "text",
    [
        "[token]\npin = 918273",
        "[token]\npin = 9182.73",
        "[token]\npin = [918273]",
        "[token]\npin = { p = 918273 }",
        "[token]\npin = 918273x",
        '[token]\npin = "918273',
        '[token]\npin = "918273"\npin = "918273"',
        '[token]\nbin = "918273"',
        'token = "918273"',
        'pin = "918273"',
        "[token]\npin = 9182-73-01",
        b'[token]\npin = "918273\xff"',
        '[token]\npin = "918273"\nslot = "x"',
    ],
)
def test_no_error_repeats_a_pin(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "kmsd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ={})
    chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    told = f"{chain!r}{caught.value.hint}".replace(str(path), "F")
    assert "9182" not in told


def test_neither_settings_nor_origins_show_the_pin() -> None:
    loaded = load({"token.pin": ("--p11-pin", PIN)}, environ={})
    assert PIN not in repr(loaded) + str(loaded) + repr(loaded.settings) + loaded.settings.model_dump_json()
    assert read_pin(loaded.settings.token, {}) == PIN


@pytest.mark.parametrize("name", ["P11_PIN", "KMSD_TOKEN__PIN", "--p11-pin"])
def test_a_pin_that_others_can_read_warns(name: str) -> None:
    flags: dict[str, tuple[str, object]] = {"token.pin": (name, PIN)} if name.startswith("--") else {}
    environ = {} if flags else {name: PIN}
    warning = f"{name}: others on this machine can read the PIN there: use --p11-pin-file"
    assert load(flags, environ=environ).warnings == (warning,)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_configuration_with_a_pin_is_for_its_owner_only(tmp_path: Path, mode: int, warns: bool) -> None:
    path = write(tmp_path / "kmsd.toml", f'token.pin = "{PIN}"', mode)
    warning = f"{path}: holds the PIN and has mode {mode:04o}: chmod 600 {path}"
    assert load({}, config_file=path, environ={}).warnings == ((warning,) if warns else ())


def test_a_configuration_without_a_pin_may_be_read_by_all(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", 'token.label = "x"', 0o644)
    assert load({}, config_file=path, environ={}).warnings == ()


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_pin_file_may_be_read_by_its_group_but_not_by_others(tmp_path: Path, mode: int, warns: bool) -> None:
    path = write(tmp_path / "pin", PIN, mode)
    loaded = load({"token.pin_file": ("--p11-pin-file", str(path))}, environ={})
    warning = f"{path}: holds the PIN and has mode {mode:04o}: chmod o= {path}"
    assert loaded.warnings == ((warning,) if warns else ())


def test_a_pin_beside_a_pin_file_wins_and_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "kmsd.toml", f'token.pin = "{PIN}"\ntoken.pin_file = "/absent"')
    loaded = load({}, config_file=path, environ={})
    assert loaded.warnings == ("token.pin and token.pin_file are both given: the file is not read",)
    assert read_pin(loaded.settings.token, {}) == PIN


def test_no_pin_configured_is_no_pin() -> None:
    assert read_pin(Token(), {}) is None
    assert load({}, environ={"KMSD_TOKEN__PIN": "", "KMSD_TOKEN__PIN_FILE": ""}).settings.token == Token()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"1234", "1234"),
        (b"1234\n", "1234"),
        (b"1234\r\n", "1234"),
        (b"1234\nsecond line\n", "1234"),
        (b"12 34\n", "12 34"),
        (b"\xef\xbb\xbf1234\r\n", "1234"),
        (b"\xef\xbb\xbf" + b"x" * 1024 + b"\r\n", "x" * 1024),
        (b'"1234', '"1234'),
        ("pässwort\n".encode(), "pässwort"),
        (b"x" * 1024 + b"\r\n", "x" * 1024),
    ],
)
def test_the_pin_is_the_first_line_of_its_file(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "pin"
    path.write_bytes(content)
    assert read_pin(Token(pin_file=path), {}) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        (b"", "its first line is empty"),
        (b"\n1234\n", "its first line is empty"),
        (b"x" * 1025, "its first line must have 1024 bytes at most"),
        (b"98\xff76\n", "its first line is not UTF-8"),
        ("1234".encode("utf-16"), "its first line is not UTF-8"),
        (b"\xef\xbb\xbf\n", "its first line is empty"),
        (b"1234 \n", "there is a blank before or after the PIN"),
        (b"\t1234\n", "there is a blank before or after the PIN"),
        (b'"1234"\n', "the PIN is in quotes"),
        (b"'1234'\n", "the PIN is in quotes"),
    ],
)
def test_a_pin_file_that_holds_no_pin_is_told_and_not_shown(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "pin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_pin(Token(pin_file=path), {})
    assert caught.value.message == f"the PIN file {path}: {message}"
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, OSError)


def test_a_directory_is_no_pin_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pin(Token(pin_file=tmp_path), {})
    assert caught.value.message == f"the PIN file {tmp_path}: is a directory"
    assert "token.pin_file must name a file" in caught.value.hint


def test_a_relative_pin_file_is_a_credential_first_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pin").write_text("from-cwd\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    token = Token(pin_file=Path("pin"))
    assert read_pin(token, environ) == "from-cwd"
    (credentials / "pin").write_text("from-credential\n")
    assert read_pin(token, environ) == "from-credential"
    assert read_pin(token, {}) == "from-cwd"
    assert read_pin(Token(pin_file=tmp_path / "pin"), environ) == "from-cwd"


def test_a_pin_comes_through_a_file_descriptor_that_stays_open() -> None:
    reader, writer = os.pipe()
    got: list[str | None] = []
    thread = threading.Thread(
        target=lambda: got.append(read_pin(Token(pin_file=Path(f"/dev/fd/{reader}")), {})), daemon=True
    )
    try:
        os.write(writer, b"1234\nnot the PIN")
        thread.start()
        thread.join(timeout=10)
        assert got == ["1234"]
        assert os.read(reader, 100) == b"not the PIN"
    finally:
        os.close(writer)
        os.close(reader)
