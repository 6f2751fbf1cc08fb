"""Fuzz what strangers reach, one target after the other: `make fuzz`, ARGS="--seconds 3600 pkcs10" for one of them.

What was found interesting is kept in .venv/fuzz, and the next run goes on from it. Exits with 1 if a target fell over,
and says how to see it again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS

SECONDS: Final = 60
_FOLDER: Final = Path(__file__).parents[2] / ".venv" / "fuzz"
_LIMITS: Final = ("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0")


def fuzz(name: str, seconds: int) -> int:
    """Fuzz one target for so long. Returns how many inputs it was given. Raises CalledProcessError on a finding."""
    folder, target = _FOLDER / name, TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), *_LIMITS]
    command += [f"-max_total_time={seconds}", f"-max_len={target.longest}", f"-artifact_prefix={_FOLDER}/{name}-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO: Instr")]
        print(*told, sep="\n", file=sys.stderr)  # noqa: T201
        done.check_returncode()
    return int(re.findall(r"^stat::number_of_executed_units:\s*(\d+)", done.stderr, re.MULTILINE)[-1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("target", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for all of them together")
    given = parser.parse_args()
    names = given.target or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    found = 0
    for name in names:
        try:
            inputs = fuzz(name, max(1, given.seconds // len(names)))
        except subprocess.CalledProcessError:
            found += 1
            last = max(_FOLDER.glob(f"{name}-*"), key=lambda each: each.stat().st_mtime)
            print(f"{name}: see it again with .venv/bin/python -m tests.fuzz.one {name} {last}")  # noqa: T201
        else:
            print(f"{name}: {inputs} inputs, nothing found")  # noqa: T201
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
