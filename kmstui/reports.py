"""Reads files for kmstui: the report that `kmsctl etcd scan --report` wrote, and stored values. kmstui itself never
reads etcd."""

from __future__ import annotations

from pathlib import Path

from kmsd import plainfile
from kmsd.client import InvalidRequest, ScanReport
from kmsd.client.report import REPORT_MAX, read_report


def read(path: str) -> ScanReport:
    """Read the report of a scan. path: ~ is understood. Raises InvalidRequest."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(REPORT_MAX + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "name a file that `kmsctl etcd scan --report FILE` wrote"
        raise InvalidRequest(f"the report {path} cannot be read: {why}", hint, "INVALID_ARGUMENT") from None
    return read_report(data)


def read_value(path: str, most: int) -> bytes:
    """Return what a file or pipe holds; ~ is understood. Raises InvalidRequest, also for more than `most` bytes."""
    hint = "name a file with one stored value in it"
    try:
        data, _ = plainfile.read_input(Path(path).expanduser(), most + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidRequest(f"{path} cannot be read: {why}", hint, "INVALID_ARGUMENT") from None
    if len(data) > most:
        raise InvalidRequest(f"{path} holds more than {most:,} bytes", hint, "INVALID_ARGUMENT")
    return data
