"""A program that writes an audit, to be killed or to run out of disk. Says on stdout what it knows to be written.

usage: python -m tests.observe.writing steady|full DIRECTORY
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from kmsd.audit.trail import Audit
from kmsd.config.settings import Audit as Settings
from kmsd.observe import logs


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def mended(audit: Audit) -> None:
    """Returns when the writer has tried again by itself."""
    for _ in range(400):
        if not audit.troubles:
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the audit is not written again")


async def steady(directory: Path) -> None:
    """Record calls and admin actions until killed; print the number of each action once it is on the disk."""
    audit = Audit(Settings(kms="all").model_copy(update={"max_bytes": 200_000, "keep": 1000}), directory)
    await audit.start()
    number = 0
    while True:
        for _ in range(40):
            audit.kms("Decrypt", "OK", seconds=0.001, key_id_sha256="ab" * 32)
        number += 1
        action = f"action {os.getpid()} {number}"
        assert await audit.admin(action, "OK", seconds=0.1)
        say(action)


async def full(directory: Path) -> None:
    """Run into a limit of the file's size in the middle of a line, and out of it again."""
    audit = Audit(Settings(), directory)
    await audit.start()
    assert await audit.admin("before", "OK", seconds=0.1)
    size = (directory / "audit.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, resource.RLIM_INFINITY))
    assert await audit.admin("fits", "OK", seconds=0.1)
    audit.event("token down")
    assert not await audit.admin("does not fit", "OK", seconds=0.1)
    assert not await audit.admin("does not fit either", "OK", seconds=0.1)
    (trouble,) = audit.troubles
    say(trouble.message)
    say(trouble.hint)
    assert (await audit.verify()).intact
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await mended(audit)
    assert await audit.admin("after", "OK", seconds=0.1)
    await audit.close()


if __name__ == "__main__":
    logs.configure("json", "info")
    asyncio.run({"steady": steady, "full": full}[sys.argv[1]](Path(sys.argv[2])))
