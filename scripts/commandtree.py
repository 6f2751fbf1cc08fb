"""The commands of kmsd, kmsctl and kmstui as data: what their help says, for pages and manuals that are made of it.

Everything comes from the programs' own parsers, as root of a machine sees it.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from kmsd import paths

PROGRAMS = ("kmsd", "kmsctl", "kmstui")


@dataclass(frozen=True)
class Entry:
    """An argument or option. names: as it is typed, with what it takes. help: what it does, with its default."""

    names: str
    help: str


@dataclass(frozen=True)
class Command:
    """A command, or a group of them. path: as it is typed. usage: what follows the path. summary: a line of a list.
    text: paragraphs. examples: command lines."""

    path: str
    usage: str
    summary: str
    text: tuple[str, ...]
    examples: tuple[str, ...]
    arguments: tuple[Entry, ...]
    options: tuple[Entry, ...]
    commands: tuple[Command, ...] = ()

    def all(self) -> Iterator[Command]:
        """Yield this command and all below it, each before its own."""
        yield self
        for each in self.commands:
            yield from each.all()


def program(name: str) -> Command:
    """Return a program with all its commands."""
    # What help texts name as usual places does not depend on who makes the pages, and what runs there.
    paths._is_root = lambda: True
    paths.dev_dir = lambda: Path("/nonexistent")
    for variable in [each for each in os.environ if each.startswith(("KMSCTL_", "KMSD_"))]:
        del os.environ[variable]
    if name == "kmsctl":
        from kmsctl import app

        return _of_typer(app.program(), None, name)
    if name == "kmsd":
        from kmsd import cli

        return _of_typer(typer.main.get_command(cli.app), None, name)
    from kmstui import arguments

    return _of_argparse(arguments._parser())


def _of_typer(command: Any, parent: Any, name: str) -> Command:
    context = command.context_class(command, info_name=name, parent=parent, resilient_parsing=True)
    visible = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    records = [(each, each.get_help_record(context)) for each in visible]
    entries = [
        (each, Entry(re.sub(r" <\w+>$", "", _words(record[0])), _words(record[1])))
        for each, record in records
        if record is not None
    ]
    text, examples = _parts(command.help or "")
    return Command(
        path=context.command_path,
        usage=" ".join(command.collect_usage_pieces(context)),
        summary=command.get_short_help_str(200),
        text=text,
        examples=examples,
        arguments=tuple(entry for each, entry in entries if each.param_type_name == "argument"),
        options=tuple(entry for each, entry in entries if each.param_type_name == "option"),
        commands=tuple(_of_typer(each, context, word) for word, each in getattr(command, "commands", {}).items()),
    )


def _of_argparse(parser: argparse.ArgumentParser) -> Command:
    formatter = parser._get_formatter()
    entries = [
        Entry(", ".join(formatter._format_action_invocation(each).split(", ")), formatter._expand_help(each))
        for each in parser._actions
    ]
    return Command(
        path=parser.prog,
        usage="[OPTIONS]",
        summary=parser.description or "",
        text=tuple(filter(None, [parser.description, parser.epilog])),
        examples=(),
        arguments=(),
        options=tuple(entries),
    )


def _parts(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paragraphs of a help text, and its examples."""
    paragraphs, examples = [], []
    for part in inspect.cleandoc(text).split("\n\n"):
        kept = part.removeprefix("\b\n")
        if kept.startswith("Examples:\n"):
            examples += [line.strip() for line in kept.splitlines()[1:]]
        elif kept != part:
            paragraphs.append(kept)
        else:
            paragraphs.append(_words(kept))
    return tuple(paragraphs), tuple(examples)


def _words(text: str) -> str:
    return " ".join(text.split())
