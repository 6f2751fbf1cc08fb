"""Fuzz one target in this process: `python -m tests.fuzz.one TARGET [FLAG OF LIBFUZZER|FILE|FOLDER]...`.

With a file, it is given to the target once: so a finding is shown again.
"""

from __future__ import annotations

import importlib
import sys

atheris = importlib.import_module("atheris")  # it has no types, and is there for `make fuzz` alone
with atheris.instrument_imports(include=["kmsd"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *rest = sys.argv[1:]
    atheris.Setup([name, *rest], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
