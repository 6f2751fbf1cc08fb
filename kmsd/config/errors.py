"""The origins of values, and the errors of a configuration, in words that name the place.

Validates with the models of `kmsd.config.settings`; reads neither files nor the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from kmsd.config.settings import Settings
from kmsd.config.values import PIN, TABLES, found, key_text, leaf, leaf_key, suggestion


@dataclass(frozen=True)
class Origin:
    """The place that a value came from. where: `FILE:LINE`, the name of a variable or a flag, or `default`."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str


class ConfigError(Exception):
    """Raised when the configuration cannot be used.

    message: one problem a line, each naming its place; never a PIN.
    hint: what to do, one hint a line; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class SettingProblem:
    """A thing that is wrong with a setting. loc: the path of its key, if it has one."""

    message: str
    hint: str = ""
    loc: tuple[str, ...] = ()


def refuse(problems: Sequence[SettingProblem]) -> None:
    """Raise ConfigError with every problem, each once, if there are any."""
    if problems:
        raise _error(problems)


def _error(problems: Sequence[SettingProblem]) -> ConfigError:
    messages = dict.fromkeys(problem.message for problem in problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return ConfigError("\n".join(messages), "\n".join(hints))


def validate(
    nested: Mapping[str, object], origin_of: Callable[[tuple[str, ...]], Origin]
) -> Settings | list[SettingProblem]:
    """Return the settings in `nested` (section -> field -> value), or all that is wrong with it.

    origin_of: from the path of a key to where it was given.
    """
    try:
        return Settings.model_validate(nested, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = []
    for detail in details:
        loc = tuple(str(part) for part in detail["loc"])
        said = detail.get("ctx", {}).get("error") if detail["type"] == "value_error" else None
        origin = origin_of(loc)
        if detail["type"] != "missing" or origin.kind != "default":  # the file that lacks it is told of
            problems.append(_problem(loc, detail["type"], detail["input"], said, origin))
    return problems


def valid(nested: Mapping[str, object], origin_of: Callable[[tuple[str, ...]], Origin]) -> Settings:
    """Return the settings as `validate` does, but raise ConfigError with all that is wrong."""
    match validate(nested, origin_of):
        case Settings() as settings:
            return settings
        case problems:
            raise _error(problems)


def _problem(loc: tuple[str, ...], kind: str, value: object, said: object, origin: Origin) -> SettingProblem:
    key, setting = leaf_key(loc), leaf(loc)
    hint = ""
    if kind == "extra_forbidden":
        # Only the name is repeated: the value may be a PIN under a mistyped key.
        noun = "section" if len(loc) == 1 and isinstance(value, dict) else "key"
        what = f"unknown {noun}; {suggestion(loc)}"
    elif loc[:1] and loc[0] in TABLES and said is not None and len(loc) == 1:
        what = str(said)
    elif setting is None and loc[:1] and loc[0] in TABLES:
        what = f"expected tables, [[{loc[0]}]], found {found(key, value)}"
    elif kind == "missing":
        what = f"is missing; {suggestion(loc)}"
    elif setting is None:
        what = f"expected a section, [{key_text(loc)}], found {found(key, value)}"
    elif said is not None:
        what = str(said) if setting.kind is tuple else f"{said}, found {found(key, value)}"
    else:
        expected = setting.expected
        if origin.kind != "file":
            expected = expected.removesuffix(" in quotes")  # TOML's need, not a shell's
        what = f"expected {expected}, found {found(key, value)}"
        if key == PIN and isinstance(value, int | float) and not isinstance(value, bool):
            hint = 'put the PIN in quotes (pin = "..."), or better in a file that token.pin_file names'
    match origin.kind:
        case "file":
            return SettingProblem(f"{origin.where}: {key_text(loc)}: {what}", hint, loc)
        case "default":
            return SettingProblem(f"{key_text(loc)}: {what} (the default)", hint, loc)
        case _:
            return SettingProblem(f"{origin.where}: {what}", hint, loc)
