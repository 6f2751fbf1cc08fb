"""The program as typer's tree of commands: each is made when it is asked for, and takes the program's own options too.

Knows no command by name: `kmsctl.commands` lists them.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import EnumType
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from kmsctl.commands import COMMANDS, Command
from kmsctl.optiongroups import spread
from kmsctl.options import Invocation, Options, type_tls
from kmsctl.output import OutputFormat
from kmsd.client.places import NAMES


def program(app: typer.Typer) -> Any:
    """Return the tree of commands below the program `app`, which holds its options and no command."""
    root: Any = typer.main.get_command(app)
    root.commands = _Commands(COMMANDS, "", [each for each in root.params if each.name != "help"])
    return root


class _Plain:
    """The conversion of a parameter's values, without typer's where there is nothing to convert.

    typer converts any value with pydantic, an absent one too, and to load that takes as long as to load typer itself.
    """

    def __init__(self, parameter: Any) -> None:
        self._typers = type(parameter).get_runtime_param
        described = parameter.type_descriptor
        self._kind = described.annotation if described.parameter_info.parser is None else None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self._kind is str and isinstance(value, str):
            return value
        # mypy infers no type for the members of an EnumType that is only known at run time.
        if isinstance(self._kind, EnumType) and value in [each.value for each in self._kind]:  # type: ignore[var-annotated]
            return self._kind(value)
        return self._typers(param).coerce(value, param=param, ctx=ctx)


class _Quick:
    """A command or group whose plain values are taken as they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        # Mixed into Typer's commands and groups, which have this method.
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for each in found:
            plain = _Plain(each)
            each.get_runtime_param = lambda plain=plain: plain
        return found


class _Single(_Quick, TyperCommand):
    pass


class Group(_Quick, TyperGroup):
    """A group that is listed without its commands being loaded."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(short_helps(self).items()))


def short_helps(command: Any) -> dict[str, str]:
    """Return the commands below this one, and what is said of each in a list; nothing if it is no group."""
    commands = getattr(command, "commands", None)
    return commands.short_helps if isinstance(commands, _Commands) else {}


class _Commands(Mapping[str, Any]):
    """The commands of a group by name, each of which is made when it is looked up."""

    def __init__(self, commands: Sequence[Command], path: str, shared: list[Any]) -> None:
        """Take the commands of a group. path: the words before them on the command line, a space behind each. shared:
        options that all take."""
        self._listed = {each.name: each for each in commands}
        self._path = path
        self._shared = shared
        self._made: dict[str, Any] = {}

    @property
    def short_helps(self) -> dict[str, str]:
        return {name: each.short_help for name, each in self._listed.items()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(self._listed[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    def _make(self, command: Command) -> Any:
        module, _, function = command.place.partition(":")
        callback = spread(getattr(importlib.import_module(f"kmsctl.commands.{module}"), function))
        path = self._path + command.name
        text = (inspect.getdoc(callback) or "").replace("{command}", path)
        alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        if command.commands:
            alone.callback(cls=Group, invoke_without_command=True, help=text)(callback)
        else:
            alone.command(command.name, cls=_Single, help=text)(callback)
        made: Any = typer.main.get_command(alone)
        made.name, made.short_help = command.name, command.short_help
        if command.commands:
            made.commands = _Commands(command.commands, f"{path} ", self._shared)
        # What a command has under the same name is its own. The rest is not in its help, which would be the longer for
        # it: `kmsctl --help` shows it.
        taken = {name for each in made.params for name in each.opts}
        made.params += [_behind(each) for each in self._shared if not taken.intersection(each.opts)]
        return made


def _behind(option: Any) -> Any:
    """Return a copy of an option of the program, which notes what is typed behind a command."""
    found = copy.copy(option)
    found.expose_value = False
    found.hidden = True
    found.envvar = None  # the program has looked there
    if option.callback is None:
        note = _NOTES[option.name]

        def take(ctx: Any, param: Any, value: Any) -> Any:
            invocation = ctx.find_object(Invocation)
            if value not in (None, False) and invocation is not None:
                invocation.options = note(invocation.options, value)
            return value

        found.callback = take
    return found


def _without_colour(options: Options, _: object) -> Options:
    os.environ["NO_COLOR"] = "1"  # the one switch that stdout and stderr both look at
    return options


def _type_tls(name: str, options: Options, value: str) -> Options:
    return type_tls(options, name, value)


_NOTES: dict[str, Callable[[Options, Any], Options]] = {
    "target": lambda options, value: replace(options, named=value, target_typed=True),
    **{f"tls_{name}": partial(_type_tls, name) for name in NAMES},
    "timeout": lambda options, value: replace(options, timeout=value),
    "output_format": lambda options, value: replace(options, output=OutputFormat(value)),
    "no_color": _without_colour,
    "debug": lambda options, _: replace(options, debug=True),
}
