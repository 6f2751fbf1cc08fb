"""A token that misbehaves on demand: SoftHSM behind a module of our own, built from chaos.c, which says how to tell it.

Has the shape of `tests.tokens.SoftToken`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tokens import MODULE as SOFTHSM
from tests.tokens import Fronted, SoftToken, make_token

_SOURCES = Path(__file__).parent


def build(name: str = "chaos.c") -> Path:
    """The module, compiled once for each version of its source."""
    source = _SOURCES / name
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    module = Path(tempfile.gettempdir()) / f"kmsd-chaos-{os.getuid()}" / f"{digest}.so"
    if not module.exists():
        module.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = module.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [
                *("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-Bsymbolic"),
                *("-o", str(fresh), str(source), "-ldl", "-lpthread"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        fresh.rename(module)
    return module


def clock(file: Path, ahead: int) -> dict[str, str]:
    """Set a clock, which lies in a file, ahead by so many seconds. Returns the environment of whoever has it, and sees
    the next setting, too."""
    file.write_text(str(ahead))
    return {"LD_PRELOAD": str(build("clock.c")), "CHAOS_CLOCK": str(file)}


@dataclass(frozen=True)
class ChaosToken(Fronted):
    """A SoftHSM behind the module that misbehaves."""

    behind: SoftToken
    module: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.behind.environment,
            "CHAOS_MODULE": SOFTHSM,
            "CHAOS_FILE": str(self.folder / "chaos"),
            "CHAOS_LOG": str(self.folder / "calls"),
        }

    def tell(self, *lines: str) -> None:
        """What to do from now on; nothing: behave. Seen by the next call, and by those that hang."""
        (self.folder / "chaos.once").unlink(missing_ok=True)
        fresh = self.folder / "chaos.new"
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.rename(self.folder / "chaos")

    @contextlib.contextmanager
    def told(self, *lines: str) -> Iterator[None]:
        """`tell`, and behave again at the end."""
        self.tell(*lines)
        try:
            yield
        finally:
            self.tell()

    def calls(self) -> Counter[str]:
        """How often each function was called since the token was made or `forget_calls`."""
        path = self.folder / "calls"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def hanging(self) -> contextlib.AbstractContextManager[None]:
        """As if the device had stopped answering."""
        return self.told("* hang")

    def away(self) -> contextlib.AbstractContextManager[None]:
        """As if the device were unplugged: everything is CKR_DEVICE_REMOVED until the end."""
        return self.told("* rv=0x32")


def make_chaos(folder: Path, label: str = "kmsd-test") -> ChaosToken:
    """A fresh SoftHSM with one token, behind the module that misbehaves when told to."""
    return ChaosToken(make_token(folder, label), str(build()))
