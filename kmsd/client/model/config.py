"""The configuration in force."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """name: section and field, as "token.pin_file". origin: "default", or the place in words."""

    name: str
    value: str
    origin: str
    secret: bool
    reloadable: bool


@dataclass(frozen=True)
class Config:
    """file: empty if none was read."""

    file: str
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LogLevel:
    level: str
    previous: str
