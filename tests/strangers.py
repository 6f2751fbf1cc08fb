"""Another user of the machine, and a folder that everybody may pass through: only root can play both."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UID = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def stranger(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program of the system's as user 12345, who is in no group of anybody's."""
    return subprocess.run(
        [str(part) for part in command],
        user=UID,
        group=UID,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder of root's in /tmp that others may enter: pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
