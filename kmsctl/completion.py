"""Completes a command line: commands, options and choices from the program itself, and what a running
kmsd has, where it answers at once.

Kept apart from typer's own completion, which loads much and whose scripts cut labels at `@` and `:`. Silent: whatever
goes wrong, fewer words are offered.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from kmsctl.tree import short_helps
from kmsd.client import escape
from kmsd.client.places import NAMES, flag, variable

if TYPE_CHECKING:
    from kmsd.client import Key

LIVE_SECONDS: Final = 0.3
"""Seconds that asking kmsd may take, the loading of gRPC included."""

_NAMING: Final = frozenset({"--target", *map(flag, NAMES)})
"""Options that say which kmsd is asked."""
FILES: Final = "\tFILES"
"""Offered alone: the shell should offer files."""


@dataclass(frozen=True)
class Word:
    """A word that is offered. shy: offered only to who has typed some of it."""

    text: str
    help: str = ""
    shy: bool = False

    @property
    def line(self) -> str:
        """The word for a shell's script, with its help behind a tab."""
        return f"{self.text}\t{self.help}" if self.help else self.text


def complete(root: Any, words: Sequence[str]) -> list[Word]:
    """Return what may come next. root: the program as typer's tree of commands. words: of the command line, the
    program's name first, and the word to be completed last."""
    *before, unfinished = words[1:] or [""]
    place = _walk(root, before)
    if place.waiting is not None:
        return _begin(_values(place.waiting, place), unfinished)
    if unfinished.startswith("-") and not place.only_arguments:
        name, equals, value = unfinished.partition("=")
        if not equals:
            return _begin(_options(place.command), unfinished)
        option = _option(place.command, name)
        if option is None:
            return []
        found = _begin(_values(option, place), value)
        return [word if word.text == FILES else Word(f"{name}={word.text}", word.help) for word in found]
    if place.commands:
        return _begin([Word(*each) for each in short_helps(place.command).items()], unfinished)
    argument = place.argument
    return [] if argument is None else _begin(_values(argument, place), unfinished)


@dataclass(frozen=True)
class _Place:
    """The place that a command line has got to. root: the program. waiting: the option whose value comes next. words:
    the arguments that have come. named: values of --target and the options of TLS, by option."""

    root: Any
    command: Any
    waiting: Any = None
    words: tuple[str, ...] = ()
    only_arguments: bool = False
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> int:
        return len(self.words)

    @property
    def commands(self) -> dict[str, Any]:
        return {} if self.arguments else getattr(self.command, "commands", {})

    @property
    def argument(self) -> Any:
        """The one that comes next; the last one again if it takes many."""
        arguments = [each for each in self.command.params if each.param_type_name == "argument"]
        if self.arguments < len(arguments):
            return arguments[self.arguments]
        return arguments[-1] if arguments and arguments[-1].nargs == -1 else None


def _walk(root: Any, words: Sequence[str]) -> _Place:
    command, waiting, only_arguments = root, None, False
    named: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    for word in words:
        if waiting is not None:
            named |= dict.fromkeys(_NAMING.intersection(waiting.opts), word)
            waiting = None
        elif word == "--":
            only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not only_arguments:
            name, equals, value = word.partition("=")
            option = _option(command, name)
            if option is not None and equals:
                named |= dict.fromkeys(_NAMING.intersection(option.opts), value)
            elif option is not None and not option.is_flag:
                waiting = option
        elif not arguments and word in getattr(command, "commands", {}):
            command = command.commands[word]
        else:
            arguments = (*arguments, word)
    return _Place(root, command, waiting, arguments, only_arguments, named)


def _option(command: Any, name: str) -> Any:
    return next((each for each in command.params if name in each.opts), None)


def _options(command: Any) -> list[Word]:
    found = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    long = [Word(name, each.help or "") for each in found for name in each.opts if name.startswith("--")]
    return [*long, Word("--help", "Show help.")]


def _values(parameter: Any, place: _Place) -> list[Word]:
    """Return what a parameter takes: its choices, else what its metavar names."""
    metavar = parameter.metavar or ""
    if "|" in metavar:  # the formats that a command writes, of all that there are
        return [Word(each) for each in metavar.strip("[]").split("|")]
    choices = parameter.shell_complete(None, "")
    if choices:
        return [Word(str(each.value)) for each in choices]
    what = metavar.strip("[].")
    if what == "COMMAND":
        return _topics(place)
    if what in ("FILE", "SOCKET"):
        return [Word(FILES)]
    if what == "TARGET":
        return _targets()
    live = _LIVE.get(what)
    return [] if live is None else _ask(live, place.named)


def _topics(place: _Place) -> list[Word]:
    """Return what `kmsctl help` explains, behind the words that it has been given."""
    group = place.root
    for word in place.words:
        group = getattr(group, "commands", {}).get(word)
    topics = [] if place.words else [Word("exit-codes", "List the exit codes.")]
    return [Word(*each) for each in short_helps(group).items()] + topics


def _targets() -> list[Word]:
    """Return the names in the configuration file, or files where it has none."""
    from kmsd.client import clientconfig

    return [Word(each.name, each.address) for each in clientconfig.load().targets] or [Word(FILES)]


def _begin(words: Sequence[Word], unfinished: str) -> list[Word]:
    return [
        each
        for each in words
        if each.text == FILES or (each.text.startswith(unfinished) and (unfinished or not each.shy))
    ]


def _keys(kmsd: Any) -> list[Word]:
    """Return labels, then key ids, for whoever goes on with one."""
    from kmsd.client import KeyState

    keys = [each for each in kmsd.list_keys() if each.state is not KeyState.COMPANION]
    return _named(keys) + [Word(each.key_id, f"{each.state} {each.label}", shy=True) for each in keys if each.key_id]


def _labels(kmsd: Any) -> list[Word]:
    return _named(kmsd.list_keys())


def _named(keys: Sequence[Key]) -> list[Word]:
    """Return labels, each with what tells it from one that looks like it."""
    from kmsd.near import near

    labels = [each.label for each in keys]
    found = []
    for each in keys:
        others = " or ".join(map(repr, near(each.label, labels)))
        unlike = f", not {others}" if others else ""
        found.append(Word(each.label, f"{each.state} {each.key_id}".rstrip() + unlike))
    return found


def _tokens(kmsd: Any) -> list[Word]:
    return [Word(each.name, each.token.label) for each in kmsd.get_status().tokens if each.name]


def _tenants(kmsd: Any) -> list[Word]:
    return [Word(each.name, f"{each.state} {each.write_label}") for each in kmsd.get_status().tenants]


def _kids(kmsd: Any) -> list[Word]:
    """Return the labels of keys of service account tokens, and kids for whoever goes on with one or where there is no
    label."""
    keys = kmsd.get_jwt().keys
    labels = [Word(each.label, f"{each.state} {each.kid}".rstrip()) for each in keys if each.label]
    kids = [Word(each.kid, f"{each.state} {each.label or each.note}", bool(each.label)) for each in keys if each.kid]
    return labels + [each for each in kids if not each.text.startswith("-")]


_LIVE: Final[dict[str, Callable[[Any], list[Word]]]] = {
    "KEY": _keys,
    "LABEL": _labels,
    "TOKEN": _tokens,
    "TENANT": _tenants,
    "KID": _kids,
}


def _ask(question: Callable[[Any], list[Word]], named: Mapping[str, str]) -> list[Word]:
    """Return what kmsd answers within LIVE_SECONDS; nothing otherwise."""
    from kmsd.client import connect

    os.environ.update({variable(name): named[flag(name)] for name in NAMES if flag(name) in named})
    target = named.get("--target") or os.environ.get("KMSCTL_TARGET")
    answer: list[Word] = []

    def ask() -> None:
        # Whatever it is, said here it would stand in the middle of the line that is being typed.
        with contextlib.suppress(Exception):
            if _somebody_listens(target):
                with connect(target, timeout=LIVE_SECONDS) as kmsd:
                    answer.extend(question(kmsd))

    # Loading gRPC cannot be interrupted; the thread is left behind where it is.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LIVE_SECONDS)
    if thread.is_alive():
        return []
    # Anybody may have written a label: what is not printable reaches no shell.
    return [replace(each, help=escape(each.help)) for each in answer if each.text and each.text.isprintable()]


def _somebody_listens(target: str | None) -> bool:
    import socket

    from kmsd.client import default_target, parse_target
    from kmsd.client.places import TlsPlace

    place = parse_target(target or default_target())
    if isinstance(place, TlsPlace):
        socket.create_connection((place.host, place.port), LIVE_SECONDS).close()
        return True
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIVE_SECONDS)
        sock.connect(os.fspath(place.path))
    return True
