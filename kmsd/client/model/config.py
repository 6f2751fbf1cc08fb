"""The configuration in force."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A setting in force. name: section and field, as "token.pin_file". origin: "default", or the place in words."""

    name: str
    value: str
    origin: str
    secret: bool
    reloadable: bool


@dataclass(frozen=True)
class Config:
    """The configuration in force. file: empty if none was read."""

    file: str
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class LogLevel:
    """The log level in force and the one before."""

    level: str
    previous: str
