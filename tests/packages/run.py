"""`make packages-test`: the package is built twice, looked at, installed, used, upgraded while it runs, removed and
purged; the image's commands are run. Each step is printed with its seconds; the first that fails ends it.

ARGS="package" or ARGS="image" for one of the two.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.packages.image import check_image
from tests.packages.package import check_package
from tests.packages.root import make_archive

PARTS: dict[str, Callable[[Path, Callable[[str], None]], None]] = {"package": check_package, "image": check_image}


def main() -> int:
    began = time.monotonic()

    def step(what: str) -> None:
        nonlocal began
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)  # noqa: T201
        began = time.monotonic()

    make_archive()
    step("a Debian 12 is at hand")
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory(prefix="k") as folder:
            Path(folder).chmod(0o755)
            PARTS[name](Path(folder), step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
