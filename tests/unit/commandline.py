"""Command lines of kmsd that tests run, and what comes of them."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable

import pytest

from kmsd import daemon
from kmsd.config import sources
from kmsd.config.values import LEAVES
from tests.daemons import KMSD
from tests.tokens import clean_environment

Run = Callable[..., tuple[int, str, str]]


def kmsd(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one command line as a person does."""
    return subprocess.run(
        [KMSD, *argv],
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def table(out: str) -> dict[str, tuple[object, str]]:
    """What check-config prints: setting -> (value, where from). Fails if it is not TOML, or not aligned."""
    head, *lines = out.splitlines()
    assert head.startswith("# configuration file: ")
    columns = {line.rindex("   # ") for line in lines}
    assert len(columns) == 1
    shown: dict[str, tuple[object, str]] = {}
    for line in lines:
        text, where = line[: columns.copy().pop()].rstrip(), line.rpartition("   # ")[2]
        if text.startswith("# "):
            shown[text.removeprefix("# ").removesuffix(" is not set")] = (None, where)
        else:
            ((section, body),) = tomllib.loads(text).items()
            ((name, value),) = body.items()
            shown[f"{section}.{name}"] = (value, where)
    assert list(shown) == list(LEAVES)
    return shown


Served = list[tuple[sources.Loaded, Callable[[], sources.Loaded]]]


def record_serve(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Served:
    """What serve hands over, instead of serving."""
    served: Served = []

    def run(loaded: sources.Loaded, reload: Callable[[], sources.Loaded]) -> int:
        served.append((loaded, reload))
        return code

    monkeypatch.setattr(daemon, "serve", run)
    return served
