"""Several tokens take the place of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.config import sources
from kmsd.config.sources import ConfigError, Origin, load
from tests.unit.config.written import PIN

TWO_TOKENS = """
[[tokens]]
name = "old"
module = "/lib/p11.so"
label = "hsm-1"
pin_file = "/old.pin"

[[tokens]]
label = "hsm-2"
module = "/lib/p11.so"
pin = "{pin}"
write = true
"""


def test_several_tokens_take_the_place_of_one(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.format(pin=PIN))
    file.chmod(0o600)
    loaded = load({}, config_file=file, environ={})
    assert [place.called for place in loaded.settings.places] == ["old", "hsm-2"]
    assert loaded.settings.write_place.called == "hsm-2"
    assert loaded.settings.places[0].pin_file == Path("/old.pin")
    assert loaded.settings.places[1].sessions == "auto"
    assert loaded.origins["tokens.1.write"] == Origin("file", f"{file}:12")
    assert sources.value(loaded.settings, "tokens.0.label") == "hsm-1"
    assert PIN not in repr(loaded.settings)


def test_without_tokens_the_one_token_is_the_only_place() -> None:
    settings = load({"token.label": ("--p11-label", "prod")}, environ={}).settings
    assert [place.called for place in settings.places] == ["prod"]
    assert settings.write_place is not None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('label = "hsm-2"', 'label = "old"', "two tokens are called 'old': give each a name"),
        ('name = "old"', 'name = "old"\nwrite = true', "write = true must stand in one token at most"),
        ('name = "old"', 'name = "o l d"', "F:3: tokens.0.name: expected 1 to 64 letters, digits, dots"),
        ('label = "hsm-1"', 'lable = "hsm-1"', "F:5: tokens.0.lable: unknown key; [[tokens]] has name, write"),
        ("write = true", "sessions = 99", 'F:12: tokens.1.sessions: expected "auto" or a whole number from 1 to 64'),
        (
            'pin = "{pin}"',
            "pin = 12345678",
            "F:11: tokens.1.pin: expected the PIN as a string in quotes, found a number",
        ),
        ("[[tokens]]\nname", "[token]\nlabel = 'x'\n[[tokens]]\nname", "token.label: the file has [[tokens]]"),
    ],
)
def test_what_is_wrong_with_several_tokens_is_told(tmp_path: Path, before: str, after: str, message: str) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.replace(before, after).format(pin=PIN))
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=file, environ={})
    assert message in caught.value.message.replace(str(file), "F")
    assert PIN not in caught.value.message


def test_flags_of_the_one_token_are_refused_beside_several(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text(TWO_TOKENS.format(pin=PIN))
    with pytest.raises(ConfigError, match=r"--p11-label: token\.label: the file has"):
        load({"token.label": ("--p11-label", "x")}, config_file=file, environ={})
    with pytest.raises(ConfigError, match=r"P11_TOKEN: token\.label: the file has"):
        load({}, config_file=file, environ={"P11_TOKEN": "x"})
