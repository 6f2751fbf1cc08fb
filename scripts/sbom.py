"""Print what the kmsd that is installed beside this Python is made of: CycloneDX 1.6, as JSON.

Run by make build in the venv where only the wheel and the locked versions are; needs nothing but the standard library.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any


def main() -> int:
    found = dict[str, Distribution]()
    _follow("kmsd", found)
    ours = _component(found.pop("kmsd")) | {"type": "application"}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours},
        "components": [_component(found[name]) for name in sorted(found)],
    }
    sys.stdout.write(json.dumps(bom, indent=2) + "\n")
    return 0


def _follow(name: str, found: dict[str, Distribution]) -> None:
    """Add this distribution and all that it requires here. One that is not installed is for other systems."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        found[name] = distribution(name)
    except PackageNotFoundError:
        return
    for wanted in found[name].requires or ():
        if "extra ==" not in wanted and (match := re.match(r"[\w.-]+", wanted)):
            _follow(match[0], found)


def _component(one: Distribution) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
    purl = f"pkg:pypi/{name}@{one.version}"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": one.version, "purl": purl}
    licence = one.metadata.get("License-Expression")
    return component | ({"licenses": [{"expression": licence}]} if licence else {})


if __name__ == "__main__":
    sys.exit(main())
