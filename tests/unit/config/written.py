"""Configurations as an operator writes them, and how a setting or a refusal reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kmsd.config.settings import Settings
from kmsd.config.sources import ConfigError, load

PIN = "s3cret-pin"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def value(settings: Settings, key: str) -> object:
    section, name = key.split(".")
    found = getattr(getattr(settings, section), name)
    return found.get_secret_value() if key == "token.pin" and found else found


def error_of(tmp_path: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> str:
    path = tmp_path / "kmsd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load({}, config_file=path, environ=environ or {})
    return caught.value.message.replace(str(path), "F")
