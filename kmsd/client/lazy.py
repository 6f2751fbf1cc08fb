"""Names of a package that are loaded when they are first used, so that a program pays only for those that it needs.

Knows no name: mypy and readers find them in the package's `if TYPE_CHECKING`, and `__all__`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence


def names_of(package: str, modules: Sequence[str], names: Sequence[str]) -> Callable[[str], object]:
    """Return a `__getattr__` (PEP 562) for a package.

    modules: where a name is looked for, in this order; those that are needed most come first, for all before the one
    that has the name are loaded too. names: those that there are; any other raises AttributeError.
    """

    def look_up(name: str) -> object:
        if name in names:
            for module in modules:
                found = getattr(importlib.import_module(module), name, None)
                if found is not None:
                    setattr(sys.modules[package], name, found)
                    return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


def modules_of(package: str, modules: Sequence[str]) -> Callable[[str], object]:
    """Return a `__getattr__` (PEP 562) for a package whose attributes are these modules of it."""

    def load(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
