"""`kmsctl completion`: the script that a shell completes kmsctl with, and the answers that the script asks for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from kmsctl import output

ASK = "__complete"
"""The command that the scripts run; not for people, and not in the help."""


class Shell(StrEnum):
    """A shell that kmsctl has a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[
        Shell, typer.Argument(metavar="SHELL", help="Shell to complete in: bash, zsh or fish.", show_default=False)
    ],
) -> None:
    """\b
    Examples:
      kmsctl completion bash > kmsctl.bash
      kmsctl completion zsh > _kmsctl
      kmsctl completion fish > kmsctl.fish

    Print the script that completes kmsctl in a shell: commands, options, and what a running kmsd has.

    bash: source the file, or put it as kmsctl into /usr/share/bash-completion/completions.
    zsh: put it into a directory of $fpath. fish: put it into ~/.config/fish/completions.
    """
    from kmsctl import shells

    scripts = {Shell.BASH: shells.BASH, Shell.ZSH: shells.ZSH, Shell.FISH: shells.FISH}
    output.emit(scripts[shell].rstrip("\n"))


def answer(root: Any, arguments: Sequence[str]) -> None:
    """Answer a shell's script. root: the program as a tree of commands. arguments: a shell; then for bash, the line up
    to the cursor and COMP_WORDBREAKS; for the others, the words up to the cursor."""
    from kmsctl import shells
    from kmsctl.completion import complete

    match arguments:
        case [Shell.BASH, line, breaks]:
            words, typed, quoted = shells.split(line)
            replies = shells.bash_replies(complete(root, words), typed, quoted=quoted, breaks=breaks)
        case [_, *words]:
            replies = [each.line for each in complete(root, words)]
        case _:
            replies = []
    output.emit("\n".join(replies))
