"""An audit that runs, and what it has written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kmsd.audit.chain import Record, parse
from kmsd.audit.trail import Audit
from kmsd.config.settings import Audit as Settings


@asynccontextmanager
async def running(directory: Path, max_bytes: int = 1 << 30, **chosen: Any) -> AsyncIterator[Audit]:
    """max_bytes: smaller than a configuration may have it, so that files get full."""
    audit = Audit(Settings(**chosen).model_copy(update={"max_bytes": max_bytes}), directory)
    await audit.start()
    try:
        yield audit
    finally:
        await audit.close()


def written(directory: Path, name: str = "audit.jsonl") -> list[Record]:
    path = directory / name
    whole, _, _ = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    return [parse(line) for line in whole.splitlines()]


def calls(directory: Path) -> list[Record]:
    """Those of the KMS APIs, without what their chain says of itself."""
    return [record for record in written(directory, "audit-kms.jsonl") if record.action.startswith("Decrypt")]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


def names(directory: Path, pattern: str = "*") -> list[str]:
    return sorted(file.name for file in directory.glob(pattern))


def problem(audit: Audit) -> str:
    return "\n".join(f"{each.message}; {each.hint}" for each in audit.troubles)


def directory_with_mode(directory: Path, mode: int) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(mode)


async def past(audit: Audit, count: int) -> list[Record]:
    async with aclosing(audit.watch(count, follow=False)) as batches:
        return [record async for records, _ in batches for record in records]
