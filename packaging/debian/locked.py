"""Print what a lock and an SBOM have in common: what runs, and not what builds. Usage: locked.py LOCK SBOM"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def main() -> int:
    lock, sbom = (Path(each).read_text() for each in sys.argv[1:3])
    wanted = {each["name"] for each in json.loads(sbom)["components"]}
    for block in re.finditer(r"^([a-z0-9._-]+)==.*(?:\n    .*)*\n", lock, re.MULTILINE):
        if block[1] in wanted:
            sys.stdout.write(block[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
