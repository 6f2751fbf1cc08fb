"""The log of a process whose stderr cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_LINES = """
import os, resource, sys
from kmsd.observe import logs
logs.configure("json", "info")
log = logs.get_logger("kmsd")
log.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(2).st_size, resource.RLIM_INFINITY))
log.info("lost")
log.info("lost, too")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("after")
log.info("and on")
"""


def _run(code: str, stderr: int) -> int:
    return subprocess.run([sys.executable, "-c", code], stderr=stderr, timeout=60, check=False).returncode


def test_a_disk_that_is_full_ends_nothing_and_the_next_line_tells_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        assert _run(_LINES, descriptor) == 0
    finally:
        os.close(descriptor)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("lost_lines")) for line in lines] == [
        ("before", None),
        ("after", 2),
        ("and on", None),
    ]


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code = "from kmsd.observe import logs; logs.configure('json', 'info'); logs.get_logger('kmsd').info('x')"
        assert _run(code, writer) == 0
    finally:
        os.close(writer)
