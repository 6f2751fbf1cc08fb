"""The program as typer's tree of commands, with its own options taken behind every command too. Knows no command."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import typer

from kmsctl.options import Invocation, Options
from kmsctl.output import OutputFormat


def program(app: typer.Typer) -> Any:
    """Return the tree of commands. What a command has under the same name is its own; the rest is not in its help,
    which would be the longer for it: `kmsctl --help` shows it."""
    root = typer.main.get_command(app)
    _spread(root, [each for each in root.params if each.name != "help"])
    return root


def _spread(group: Any, shared: list[Any]) -> None:
    for command in getattr(group, "commands", {}).values():
        taken = {name for each in command.params for name in each.opts}
        command.params += [_behind(each) for each in shared if not taken.intersection(each.opts)]
        _spread(command, shared)


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


_NOTES: dict[str, Callable[[Options, Any], Options]] = {
    "target": lambda options, value: replace(options, target=value, target_typed=True),
    "timeout": lambda options, value: replace(options, timeout=value),
    "output_format": lambda options, value: replace(options, output=OutputFormat(value)),
    "no_color": _without_colour,
    "debug": lambda options, _: replace(options, debug=True),
}
