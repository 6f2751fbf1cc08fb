"""Options that belong together, as one parameter of a command: a dataclass whose fields are annotated as typer's are.

Knows typer's way to read a command, its signature, and no option.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command as typer can read it: in the place of each parameter that is a dataclass stand its fields,
    and what they are given is put together again for the call."""
    signature = inspect.signature(command, eval_str=True)
    groups = {each.name: each.annotation for each in signature.parameters.values() if is_group(each.annotation)}
    if not groups:
        return command

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{each: given.pop(each) for each in names(group)})
        return command(**given)

    parameters = [
        part
        for each in signature.parameters.values()
        for part in (_fields(groups[each.name]) if each.name in groups else [each])
    ]
    flat = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    # inspect.signature reads it of any function (PEP 362); mypy knows it of none.
    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in flat}
    del run.__wrapped__
    return run


def is_group(annotation: Any) -> bool:
    """Return whether a parameter with this annotation is a group of options."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def names(group: Any) -> list[str]:
    """Return the names of a group's options, as the command would name its parameters."""
    return [each.name for each in dataclasses.fields(group)]


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in dataclasses.fields(group)
    ]
