"""What a library prints in kmsd's own process becomes a line of the log."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import asyncio, os, sys
from kmsd.daemon import event_sinks, own_stderr
from kmsd.observe import logs

async def main() -> None:
    logs.configure("json", "info")
    await own_stderr.take(event_sinks.library_printed)
    os.write(2, b"a panic\\n" * 100 + b"half")
    sys.stderr.write("kmsd: error: as before\\n")
    os.write(2, b" a line\\n")
    await asyncio.sleep(0.2)
    logs.get_logger("test").info("the end")
    os._exit(0)

asyncio.run(main())
"""


def test_what_a_library_prints_becomes_lines_of_the_log() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    straight, *lines = run.stderr.splitlines()
    assert straight == "kmsd: error: as before"
    records = [json.loads(line) for line in lines]
    printed = [record["line"] for record in records if record["event"] == "a library printed a line"]
    assert printed == ["a panic"] * 20
    assert records[-1]["event"] == "the end"
