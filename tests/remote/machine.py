"""Machines of their own below a folder: what manifests, units and pages say is run there with its paths moved."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.daemons import KMSCTL, KMSD, foreign_lines
from tests.e2e.program import Program
from tests.strangers import open_folder
from tests.tokens import clean_environment

PROGRAMS = {"kmsd": KMSD, "kmsctl": KMSCTL, "python": str(Path(KMSD).with_name("python"))}

# The interpreter may lie in root's own folder: the other user may pass through, and do nothing else that it may not.
BECOME = ("setpriv", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@dataclass
class Machine:
    """A machine of its own below `root`. moved: what stands for what in arguments and files. user: who runs there."""

    root: Path
    moved: dict[str, str]
    user: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    running: list[Program] = field(default_factory=list)

    def here(self, text: str) -> str:
        """The text with every path, address and port of the manifest's replaced by the one on this machine."""
        names = sorted(self.moved, key=len, reverse=True)
        return re.sub(rf"(?<![\w.-])({'|'.join(map(re.escape, names))})(?![\w-])", lambda it: self.moved[it[1]], text)

    def command(self, words: Sequence[str]) -> list[str]:
        program, *arguments = words
        become = [*BECOME, f"--reuid={self.user}", f"--regid={self.user}"] if self.user else []
        return [*become, PROGRAMS.get(program, program), *map(self.here, arguments)]

    def run(self, words: Sequence[str]) -> int:
        """Exit code of a command, as one that runs and ends there."""
        environment = clean_environment() | self.environment
        return subprocess.run(self.command(words), env=environment, timeout=60, check=False).returncode

    def start(self, words: Sequence[str]) -> Program:
        program = Program(self.command(words), self.root / "log", clean_environment() | self.environment)
        self.running.append(program)
        return program

    def kmsctl(self, *words: str) -> int:
        return self.run(["kmsctl", "--target", "unix:///run/kmsd-admin/admin.sock", *words])


@contextmanager
def machines() -> Iterator[Callable[..., Machine]]:
    """Makes machines, as often as it is called: with their name, what is moved, and the user. All end with it."""
    made: list[Machine] = []
    with open_folder() as folder:

        def make(name: str, moved: dict[str, str], user: int | None = None) -> Machine:
            (folder / name).mkdir(mode=0o755)
            made.append(Machine(folder / name, moved, user, {"HOME": "/"} if user else {}))
            return made[-1]

        yield make
        for each in made:
            for program in each.running:
                assert program.stop() == 0
            log = each.root / "log"
            assert not foreign_lines(log.read_bytes() if log.exists() else b"")
